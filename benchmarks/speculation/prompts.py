"""Held-out prompts of four kinds, written for this suite: what people ask a small model to do."""

from __future__ import annotations

from typing import Final

_HARBOUR: Final = (
    "The old harbour of Lindvik closed to freight in 1974, when container ships grew too deep for its basin. For "
    "twenty years the cranes rusted and the warehouses stood empty, until the town council sold the eastern quay to a "
    "cooperative of boat builders for a single crown. The cooperative repaired the slipway first, because every other "
    "plan depended on it, and by 1999 it employed forty people. Today the harbour earns more from repairs and from "
    "visitors than it ever did from freight, although the council still argues about the last two cranes: half of the "
    "members want them painted and kept, the other half want them sold for scrap before they fall into the water."
)
_BEES: Final = (
    "Honey bees tell each other where flowers are by dancing. A bee that has found a rich patch returns to the hive "
    "and runs in a figure of eight on the comb. The angle of the straight part against the vertical is the angle "
    "between the flowers and the sun, and the longer she waggles on that part, the farther away the flowers are. Other "
    "bees follow her in the dark and feel the dance with their antennae. Karl von Frisch described this language in "
    "the 1940s and received a Nobel Prize for it in 1973. Later work with tiny radio tags showed that bees do fly "
    "where the dance sends them, although about one in five never finds the place."
)
_ORDER: Final = (
    "Order 4471 from Maria Jensen, 12 Elm Street, Bristol: two garden chairs at 49.90 each and one table at 120.00, to "
    "be delivered on 14 March. Order 4472 from Tomas Novak, 3 River Road, Leeds: one parasol at 75.50, to be delivered "
    "on 16 March. Order 4473 from Aisha Khan, 88 Station Lane, York: four cushions at 12.25 each, to be delivered on "
    "17 March."
)
_STAFF: Final = (
    "Dr Helen Ward leads the radiology department and can be reached at helen.ward@example.org. Her deputy is Peter "
    "Lang, peter.lang@example.org. The laboratory is led by Sofia Rossi, sofia.rossi@example.org, and the pharmacy by "
    "James Okafor, james.okafor@example.org. Questions about shifts go to Nina Berg, nina.berg@example.org."
)
_LOG: Final = (
    "2026-03-02 08:14:09 ERROR payment-service timeout after 3000 ms\n"
    "2026-03-02 08:14:11 INFO payment-service retry 1\n"
    "2026-03-02 08:15:40 ERROR search-service index not found\n"
    "2026-03-02 08:17:02 WARNING cart-service slow query 850 ms\n"
    "2026-03-02 08:19:55 ERROR mail-service connection refused"
)
_STACK: Final = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("peek at an empty stack")
        return self.items[-1]
"""
_TEMPERATURE: Final = """def mean_temperature(readings):
    total = 0
    count = 0
    for reading in readings:
        if reading is None:
            continue
        total += reading
        count += 1
    return total / count
"""
_FETCH: Final = """function fetchUser(id) {
  return fetch("/api/users/" + id)
    .then(function (response) { return response.json(); })
    .then(function (user) { return user.name; });
}
"""

PROMPTS: Final[dict[str, tuple[str, ...]]] = {
    "chat": (
        "What should I think about before I adopt a dog?",
        "I have two days in Lisbon. What would you do?",
        "Explain to a child why the sky is blue.",
        "My flatmate never washes up. How do I bring it up without a fight?",
        "What is the difference between a virus and a bacterium?",
        "Suggest three simple dinners with chickpeas.",
    ),
    "code": (
        f"Add a method is_empty to this class and use it in pop and peek. Write the whole class.\n\n{_STACK}",
        f"Rename reading to value in this function and write it again.\n\n{_TEMPERATURE}",
        f"Rewrite this function with async and await.\n\n{_FETCH}",
        f"Add type hints to this class and write the whole class again.\n\n{_STACK}",
        f"Make this function return None when there are no readings. Write the whole function.\n\n{_TEMPERATURE}",
        "Write a Python function that reads a CSV file and returns the sum of its second column.",
    ),
    "extraction": (
        f"List every order number with its customer and town.\n\n{_ORDER}",
        f"Write each person's name and e-mail address on a line of its own.\n\n{_STAFF}",
        f"Copy all lines with ERROR from this log.\n\n{_LOG}",
        f"Which items were ordered, at what price and for which day?\n\n{_ORDER}",
        f"Write the staff as a JSON list with name, department and email.\n\n{_STAFF}",
        f"List all years in this text and what happened in each.\n\n{_HARBOUR}",
    ),
    "summarise": (
        f"Summarise this text in three sentences.\n\n{_HARBOUR}",
        f"Summarise this text in two sentences for a newspaper.\n\n{_BEES}",
        f"What are the main points of this text?\n\n{_HARBOUR}",
        f"Write a short summary of this text for pupils.\n\n{_BEES}",
        f"Summarise these orders in one paragraph.\n\n{_ORDER}",
        f"Give this text a title and a summary of two sentences.\n\n{_BEES}",
    ),
}

"""Why a spec is refused: pure predicates, one named fact each."""

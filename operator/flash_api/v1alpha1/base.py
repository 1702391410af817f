"""What all resources are built from: the model class, the kinds of text, and what each pattern means in words."""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from flash_api.quantities import number
from flash_api.rules import Rule, cel_string, text_validation

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
SOURCE_PATTERN = r"^(builtin|hf|https?|file|pvc|s3|gs|oci)://[^\s]+$"
SERVICE_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
HOSTNAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"

SHA256_PATTERN = r"^[0-9a-f]{64}$"
SECRET_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE_OR_EMPTY_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
REVISION_PATTERN = r"^[^\s]+$"
HTTPS_PATTERN = r"^https://[^\s/]+(/[^\s]*)?$"
HTTP_PATTERN = r"^https?://[^\s/]+(/[^\s]*)?$"
TIME_OF_DAY_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
TIME_ZONE_PATTERN = r"^[A-Z][A-Za-z_]*(/[A-Z][-+A-Za-z0-9_]*){0,2}$"
CLAIM_PATTERN = r"^[-_.:/A-Za-z0-9]+$"

PATTERN_MEANINGS: Final = {
    QUANTITY_PATTERN: "must be a Kubernetes quantity: a number with no suffix, m, k, M, G, T, Ki, Mi, Gi or Ti",
    SOURCE_PATTERN: "must be a URI with the scheme builtin, file, hf, http, https, pvc, s3, gs or oci, without spaces",
    DNS_SUBDOMAIN_PATTERN: "must be a Kubernetes name: lower case letters, digits, - and .",
    DNS_LABEL_PATTERN: "must be a Kubernetes name: lower case letters, digits and -",
    HOSTNAME_PATTERN: "must be a DNS name with a dot, in lower case and without *, such as chat.example.com",
    SHA256_PATTERN: "must be 64 hexadecimal digits in lower case",
    SECRET_KEY_PATTERN: "must be a key of a Secret: letters, digits, -, _ and .",
    LABEL_KEY_PATTERN: "must be a label's key, such as gpu or topology.kubernetes.io/zone",
    LABEL_VALUE_PATTERN: "must be a label's value: letters, digits, -, _ and ., with a letter or digit at both ends",
    LABEL_VALUE_OR_EMPTY_PATTERN: "must be empty or letters, digits, -, _ and ., with a letter or digit at both ends",
    REVISION_PATTERN: "must be a branch, a tag, a commit or a version, without spaces",
    HTTPS_PATTERN: "must be a URL that begins with https://",
    HTTP_PATTERN: "must be a URL that begins with http:// or https://",
    TIME_OF_DAY_PATTERN: "must be a time of day from 00:00 to 23:59, with two digits each",
    CLAIM_PATTERN: "must be the name of a claim: letters, digits, -, _, ., : and /",
}
"""What each pattern asks for, in words: the API server and `flash lint` say these instead of the expression."""

Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=20)]
ObjectName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
LabelName = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, min_length=1, max_length=253)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, min_length=1, max_length=63)]
LabelValueOrEmpty = Annotated[str, StringConstraints(pattern=LABEL_VALUE_OR_EMPTY_PATTERN, max_length=63)]

_CIDR: Final = "must be a block of IP addresses, such as 10.0.0.0/8 or 2001:db8::/32"


def _cidr(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise PydanticCustomError("cidr", _CIDR) from None
    # Python also reads a bare address and a netmask; Kubernetes does not.
    if re.fullmatch(r"[^/]+/(0|[1-9][0-9]*)", text) is None or getattr(network.network_address, "ipv4_mapped", None):
        raise PydanticCustomError("cidr", _CIDR)
    return text


Cidr = Annotated[
    str,
    StringConstraints(max_length=43),
    AfterValidator(_cidr),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": 43,
            "x-kubernetes-validations": [text_validation("isCIDR(self)", _CIDR)],
        }
    ),
]
"""A block of addresses; Kubernetes reads host bits leniently and so do we."""

_TIME_ZONE: Final = "must be a time zone of the IANA database, such as UTC or Europe/Berlin"


def _time_zone(name: str) -> str:
    known = re.fullmatch(TIME_ZONE_PATTERN, name) is not None and name != "Local"
    # A machine without the database cannot judge; the API server has it built in.
    if not known or (not _in_database(name) and _in_database("UTC")):
        raise PydanticCustomError("time_zone", _TIME_ZONE)
    return name


def _in_database(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        return False
    return True


TimeZone = Annotated[
    str,
    StringConstraints(min_length=3, max_length=64),
    AfterValidator(_time_zone),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 3,
            "maxLength": 64,
            "x-kubernetes-validations": [
                text_validation(
                    f"self.matches({cel_string(TIME_ZONE_PATTERN)}) && self != 'Local' && "
                    "timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0",
                    _TIME_ZONE,
                )
            ],
        }
    ),
]

T = TypeVar("T")


def each_once(values: list[T]) -> list[T]:
    """The same values; refuses a list in which one stands twice, as the API server does for a set."""
    if any(value in values[:index] for index, value in enumerate(values)):
        raise PydanticCustomError("repeated", "must hold each value once")
    return values


def each_name_once(values: list[T]) -> list[T]:
    """The same items; refuses a list in which two have one name, as the API server does for a map."""
    seen = [getattr(value, "name", None) for value in values]
    if len(set(seen)) != len(seen):
        raise PydanticCustomError("repeated", "must hold each name once")
    return values


LIST_OF_ITS_OWN: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}
LIST_AS_SET: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
LIST_BY_NAME: Final[dict[str, Any]] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


def quantity_at_least(name: str, field: str, least: str, remedy: str) -> Rule:
    """The rule that a quantity, where it is written, is no less than `least`; `field` is one word."""
    return Rule(
        name=name,
        field=field,
        cel=f"!has(self.{field}) || !isQuantity(self.{field}) || "
        f"!quantity(self.{field}).isLessThan(quantity('{least}'))",
        holds=lambda self: getattr(self, field) is None or number(getattr(self, field)) >= number(least),
        rule=f"must be at least {least}",
        remedy=remedy,
    )


class ApiModel(BaseModel):
    """Camel case on the wire, frozen in memory, unknown fields refused at the door."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    cel_rules: ClassVar[tuple[Rule, ...]] = ()


class SecretKeyRef(ApiModel):
    """A key of a Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the same namespace. Example: chat-keys.")
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN, min_length=1, max_length=253)] = Field(
        default="api-keys", description="Key inside the Secret whose value is used. Example: api-keys."
    )


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that we read."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    namespace: Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, max_length=63)] = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None


NAME_MAX: Final = 40
"""Of our objects' names: leaves room for `-gateway-` and a hash within the 63 characters of a label."""

NAME_RULES: Final = (
    Rule(
        name="NameLeavesRoomForSuffixes",
        field="metadata.name",
        cel=f"size(self.metadata.name) <= {NAME_MAX}",
        holds=lambda self: len(self.metadata.name) <= NAME_MAX,
        rule=f"must have at most {NAME_MAX} characters",
        remedy="choose a shorter name: the objects made for it are named after it",
    ),
    Rule(
        name="NameIsServiceName",
        field="metadata.name",
        cel=f"self.metadata.name.matches('{SERVICE_NAME_PATTERN}')",
        holds=lambda self: re.fullmatch(SERVICE_NAME_PATTERN, self.metadata.name) is not None,
        rule="must be lower case letters, digits and -, start with a letter and end with a letter or digit",
        remedy="choose a name such as chat or chat-eu: it becomes part of DNS names",
    ),
)

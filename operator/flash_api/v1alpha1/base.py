"""What all resources are built from: the model class and the patterns of text fields, with their meaning in words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

from flash_api.rules import Rule

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
SOURCE_PATTERN = r"^(builtin|hf|https?|file|pvc|s3|gs|oci)://[^\s]+$"
SERVICE_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

SHA256_PATTERN = r"^[0-9a-f]{64}$"
SECRET_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"

PATTERN_MEANINGS: Final = {
    QUANTITY_PATTERN: "must be a Kubernetes quantity: a number with no suffix, m, k, M, G, T, Ki, Mi, Gi or Ti",
    SOURCE_PATTERN: "must be a URI with the scheme builtin, file, hf, http, https, pvc, s3, gs or oci, without spaces",
    DNS_SUBDOMAIN_PATTERN: "must be a Kubernetes name: lower case letters, digits, - and .",
    DNS_LABEL_PATTERN: "must be a Kubernetes name: lower case letters, digits and -",
    SHA256_PATTERN: "must be 64 hexadecimal digits in lower case",
    SECRET_KEY_PATTERN: "must be a key of a Secret: letters, digits, -, _ and .",
}
"""The patterns that a manifest's author can break, in words."""

Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=20)]


class ApiModel(BaseModel):
    """Camel case on the wire, frozen in memory, unknown fields refused at the door."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    cel_rules: ClassVar[tuple[Rule, ...]] = ()

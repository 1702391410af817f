"""Where weights come from and how they are pinned: shared by served models, draft models and cached models."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from flash_api.endpoints import OBJECT_PATTERN, is_object
from flash_api.rules import Rule
from flash_api.v1alpha1.base import (
    REVISION_PATTERN,
    SHA256_PATTERN,
    SOURCE_PATTERN,
    ApiModel,
    ObjectName,
    SecretKeyRef,
)

REMOTE_SCHEMES: Final = ("hf", "http", "https", "s3", "gs", "oci")
"""Sources that may ask for credentials."""
MANY_FILES: Final = ("hf", "oci", "pvc")
"""Sources that are many files, of which no one digest speaks."""


def scheme(source: str | None) -> str:
    """`hf` of `hf://org/model`; empty for no source."""
    return (source or "").partition("://")[0]


class Variant(StrEnum):
    """How weights and activations are stored and multiplied."""

    CLOUD = "Cloud"
    LITE = "Lite"
    NANO = "Nano"


SourceUri = Annotated[str, StringConstraints(pattern=SOURCE_PATTERN, min_length=3, max_length=1024)]
Revision = Annotated[str, StringConstraints(pattern=REVISION_PATTERN, min_length=1, max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN, min_length=64, max_length=64)]


def _starts_with(schemes: tuple[str, ...]) -> str:
    return f"[{', '.join(repr(name) for name in schemes)}].exists(s, self.source.startsWith(s + '://'))"


SOURCE_RULES: Final = (
    Rule(
        name="FileSourceIsAbsolute",
        field="source",
        cel="!has(self.source) || !self.source.startsWith('file://') || self.source.startsWith('file:///')",
        holds=lambda self: scheme(self.source) != "file" or self.source.startswith("file:///"),
        rule="must be an absolute path after file://",
        remedy="write three slashes, such as file:///models/olmoe",
    ),
    Rule(
        name="SourceStaysInItsFolder",
        field="source",
        cel="!has(self.source) || !self.source.split('/').exists(part, part == '..')",
        holds=lambda self: ".." not in (self.source or "").split("/"),
        rule="must not contain ..",
        remedy="write the path without steps upwards",
    ),
    Rule(
        name="RevisionNeedsVersionedSource",
        field="revision",
        cel="!has(self.revision) || !has(self.source) || self.source.startsWith('hf://') || "
        f"self.source.matches('{OBJECT_PATTERN}')",
        holds=lambda self: self.revision is None or scheme(self.source) in ("", "hf") or is_object(self.source),
        rule="must be unset for source {self.source}, which has no revisions",
        remedy="remove revision, or use a source of the scheme hf or one file of s3 or gs",
    ),
    Rule(
        name="Sha256NeedsOneFile",
        field="sha256",
        cel=f"!has(self.sha256) || !has(self.source) || !{_starts_with(MANY_FILES)}",
        holds=lambda self: self.sha256 is None or scheme(self.source) not in MANY_FILES,
        rule="must be unset for source {self.source}, which is many files",
        shows_value=False,
        remedy="remove sha256 and pin revision or the digest in the URI instead",
    ),
    Rule(
        name="CredentialsNeedRemoteSource",
        field="credentialsSecretRef",
        cel=f"!has(self.credentialsSecretRef) || !has(self.source) || {_starts_with(REMOTE_SCHEMES)}",
        holds=lambda self: self.credentials_secret_ref is None or scheme(self.source) in ("", *REMOTE_SCHEMES),
        rule="must be unset for source {self.source}, which asks for no credentials",
        shows_value=False,
        remedy="remove credentialsSecretRef",
    ),
)


class Pinned(ApiModel):
    """What pins a source and opens it."""

    revision: Revision | None = Field(
        default=None,
        description="Branch, tag or commit of an hf source, or version of one file of s3 or gs; unset = the source's "
        "default. Example: main.",
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="Expected SHA-256 of the weights file, 64 hexadecimal digits; a different file is refused. "
        "Example: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.",
    )
    credentials_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with what the model source asks for: a token (hf, https), an AWS credentials file (s3), a "
        "service account's JSON key (gs) or a .dockerconfigjson (oci). Example: {name: hub-token, key: token}.",
    )


class ModelRef(ApiModel):
    """A FlashModel in the same namespace."""

    name: ObjectName = Field(description="Name of the FlashModel, in the same namespace. Example: olmoe.")


class SourceOrRef(ApiModel):
    """The two ways to name weights."""

    source: SourceUri | None = Field(
        default=None,
        description="URI of the model: builtin, file (a path where engines run), hf, http(s), pvc, s3, gs or oci. "
        "Example: builtin://smollm2-135m-instruct or file:///models/olmoe.",
    )
    model_ref: ModelRef | None = Field(
        default=None,
        description="FlashModel to serve instead of a source, so that deployments share one download. "
        "Example: {name: olmoe}.",
    )


# Fields of the last base come first, in `kubectl explain` and in the reference.
class ModelChoice(Pinned, SourceOrRef):
    """Weights by their source, or by the name of a FlashModel that many deployments share."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="ModelHasASource",
            field="source",
            cel="has(self.source) || has(self.modelRef)",
            holds=lambda self: self.source is not None or self.model_ref is not None,
            rule="must be set unless modelRef names a FlashModel",
            shows_value=False,
            remedy="write a source such as builtin://smollm2-135m-instruct",
        ),
        Rule(
            name="ModelHasOneSource",
            field="modelRef",
            cel="!has(self.modelRef) || !has(self.source)",
            holds=lambda self: self.model_ref is None or self.source is None,
            rule="must be unset when source ({self.source}) is set",
            shows_value=False,
            remedy="keep one of them: a FlashModel has its own source",
        ),
        Rule(
            name="ModelRefBringsItsPins",
            field="modelRef",
            cel="!has(self.modelRef) || !(has(self.revision) || has(self.sha256) || has(self.credentialsSecretRef))",
            holds=lambda self: (
                self.model_ref is None or (self.revision, self.sha256, self.credentials_secret_ref) == (None,) * 3
            ),
            rule="must stand without revision, sha256 and credentialsSecretRef",
            shows_value=False,
            remedy="write them in the FlashModel instead",
        ),
        *SOURCE_RULES,
    )

    @property
    def uri(self) -> str:
        """The source, of a choice that has one: modelRef is looked up before."""
        assert self.source is not None
        return self.source


class Model(ModelChoice):
    """Which weights to serve, and how."""

    active_experts: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Experts used per token (top-k) in a mixture-of-experts model; unset = the model's. Example: 4.",
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=16,
        le=1_048_576,
        description="Longest prompt plus answer, in tokens; unset = the model's own limit. Example: 8192.",
    )

"""Filters: as callers write them, such as `{"lang": "en", "year": {"gte": 2000}}`, and as they travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

# --- what callers write --------------------------------------------------------------------------------------

Scalar = str | bool | int | float
"""A value that metadata can be compared with."""

FieldTest = TypedDict(
    "FieldTest",
    {
        "in": list[str] | list[int] | list[float] | list[Scalar],
        "gt": str | int | float,
        "gte": str | int | float,
        "lt": str | int | float,
        "lte": str | int | float,
        "exists": bool,
    },
    total=False,
)
"""Tests of a metadata field but `not`: it has one of the values of `in`, lies in a range, is there. All must hold."""


class FieldTests(FieldTest, TypedDict("_Not", {"not": "Scalar | FieldTest"}, total=False)):
    """Tests of a metadata field. All must hold; what `not` says must not."""


Filter = Mapping[str, "Scalar | FieldTests"]
"""For each metadata field its value, or tests; all must hold."""


# --- what travels --------------------------------------------------------------------------------------------

_String = Annotated[str, StringConstraints(max_length=1_024)]
_Float = Annotated[float, Field(allow_inf_nan=False)]
_Value = _String | bool | int | _Float
_Bound = _String | int | _Float


def _is_value(given: object) -> str:
    return "tests" if isinstance(given, dict | FilterTest) else "value"


class FilterTest(BaseModel):
    """Tests of a metadata field but `not`; all must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)

    in_: Annotated[list[_Value], Field(max_length=1_000)] | None = Field(
        default=None, alias="in", description="It has one of these values; of a list of strings, one of them."
    )
    gt: _Bound | None = Field(default=None, description="Above; numbers by size, strings by their characters.")
    gte: _Bound | None = Field(default=None, description="Equal or above.")
    lt: _Bound | None = Field(default=None, description="Below.")
    lte: _Bound | None = Field(default=None, description="Equal or below.")
    exists: bool | None = Field(default=None, description="Whether the document has the field.")

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, values: Any) -> Any:
        if values == {}:
            raise ValueError("this says nothing: give a value, or one of in, gt, gte, lt, lte, exists, not")
        return values


TestsOrValue = Annotated[
    Annotated[_Value, Tag("value")] | Annotated[FilterTest, Tag("tests")], Discriminator(_is_value)
]


class FilterTests(FilterTest):
    """Tests of a metadata field; all must hold."""

    not_: TestsOrValue | None = Field(
        default=None, alias="not", description="It has not this value, or not all of these tests hold."
    )


FieldFilter = Annotated[
    Annotated[_Value, Tag("value")] | Annotated[FilterTests, Tag("tests")], Discriminator(_is_value)
]
FilterInput = Annotated[
    Annotated[dict[str, FieldFilter], Field(max_length=64)] | None,
    Field(
        description="Only passages whose documents' metadata are so: a value, or tests, for each field; all must hold. "
        "`/info` lists the fields.",
        examples=[{"lang": "en", "year": {"gte": 2000}, "tags": {"not": {"in": ["draft", "old"]}}}],
    ),
]

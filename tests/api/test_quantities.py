from decimal import Decimal

import pytest

from flash_api.quantities import canonical, number, whole_bytes


@pytest.mark.parametrize(
    ("quantity", "value"),
    [("2", "2"), ("500m", "0.5"), ("1.5Gi", "1610612736"), ("3k", "3000"), ("0.5Ki", "512"), ("2T", "2000000000000")],
)
def test_a_quantity_is_an_exact_number(quantity: str, value: str) -> None:
    assert number(quantity) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "1GB", "-1", "1e3", "1 Gi", "½"])
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a Kubernetes quantity"):
        number(text)


def test_bytes_are_rounded_down() -> None:
    assert whole_bytes("1500m") == 1


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("2000M", "2G"),
        ("1000", "1k"),
        ("1048576", "1048576"),
        ("0", "0"),
    ],
)
def test_the_canonical_form_is_the_one_that_the_api_server_stores(written: str, stored: str) -> None:
    assert canonical(written) == stored
    assert number(stored) == number(written)
    assert canonical(stored) == stored


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("1.0005", "1001m"),
        ("4900477.4900477Ki", "5018088950"),
        ("84.0826515517828T", "84082651551782800m"),
        ("9999999999999999Ti", "9223372036854775807"),
        ("99999999999999999999", "9223372036854775807"),
    ],
)
def test_what_the_api_server_cannot_count_exactly_becomes_a_number_that_it_can(written: str, stored: str) -> None:
    assert canonical(written) == stored
    assert canonical(stored) == stored

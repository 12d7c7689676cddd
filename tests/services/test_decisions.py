"""Parameters as the record holds them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from muniment.model.exchange import Parameter
from muniment.services.decisions import parameters_from, parameters_json

values = st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=20).map(lambda text: text.encode()))
parameters = st.lists(st.builds(Parameter, st.integers(0, 1 << 32), st.booleans(), values), max_size=4)


@given(parameters)
def test_parameters_written_by_hand_are_what_json_would_write(bound: list[Parameter]) -> None:
    text = parameters_json(bound)
    assert text == json.dumps(json.loads(text), separators=(",", ":"))
    assert parameters_from(text) == tuple(bound)

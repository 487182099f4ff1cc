"""Some of the cases of benchmarks/bad_inputs.py."""

import pytest
from doors import tally
from study_doors import DOORS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_bad_input_of_a_study_is_refused_or_right(door):
    result = tally(door, 30 if door.name == "compare_schemes" else 8)
    assert not result.wrong
    assert result.counts["refused"] > 0

"""Some of the cases of benchmarks/bad_inputs.py."""

import pytest
from command_doors import DOORS
from doors import tally


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_bad_input_of_the_command_is_refused_or_right(door):
    result = tally(door, 20)
    assert not result.wrong
    assert result.counts["refused"] > 0

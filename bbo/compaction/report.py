"""What a removal has left, in words."""

from typing import NamedTuple

from bbo.compaction.channels import Channels, Cut
from bbo.compaction.dead import Followed
from bbo.compaction.divisors import divisor_notes
from bbo.compaction.staying import Staying, lines_of, staying_channels


class Report(NamedTuple):
    """What is to be known of a smaller network; ``str`` gives it in a few lines."""

    staying: list[Staying]
    """Zero channels that are still there, and why."""
    notes: list[str]
    """On what the smaller function does that a module built anew would not."""

    def __str__(self) -> str:
        lines = [f"\n  {line}" for line in lines_of(self.staying)]
        text = f"Channels that are zero and stay:{''.join(lines) or ' none'}"
        return "\n".join([text, *(f"Note: {note}" for note in self.notes)])


def report_of(found: Channels, followed: Followed | None, cut: Cut) -> Report:
    """Of a cut.

    Args:
      found: the channels of the function.
      followed: where its arrays are zero; None: that is not known, and nothing is said of it.
      cut: what was removed.
    """
    staying = staying_channels(found, followed, cut) if followed else []
    return Report(staying, divisor_notes(found, cut))

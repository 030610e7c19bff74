"""The options of `chartray audit`."""

from pydantic import Field

from chartray.config.evaluate import Names, ScoringOptions


class AuditOptions(ScoringOptions):
    """Options of `chartray audit`."""

    attributes: Names = Field(None, description="Chart variables to probe, separated by commas; by default all")

"""Options that several commands have, with their ranges; a value outside is refused before anything is read."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

ZeroOrMore = Annotated[int, Parameter(validator=Number(gte=0))]
Seed = ZeroOrMore
Count = Annotated[int, Parameter(validator=Number(gte=1))]
CountIfGiven = Annotated[int | None, Parameter(validator=Number(gte=1))]
Positive = Annotated[float, Parameter(validator=Number(gt=0))]

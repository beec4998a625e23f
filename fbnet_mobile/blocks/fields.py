"""Types of fields that some published networks have and all others lack.

Such a field is None where it is lacking: a key leaves out what is None, so it changes no key of a block without it, and
the two ways of saying "without" are one key.
"""

from typing import Annotated

from pydantic import AfterValidator

from fbnet_mobile.arch.fields import Count

Flag = Annotated[bool | None, AfterValidator(lambda on: on or None)]
Groups = Annotated[Count | None, AfterValidator(lambda groups: None if groups == 1 else groups)]

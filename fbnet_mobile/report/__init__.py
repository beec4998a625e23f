"""What commands return, and how it is shown: records, the lines of a console, JSON, a page."""

from fbnet_mobile import make_callable

make_callable(__name__)

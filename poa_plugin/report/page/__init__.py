"""The page about one run or several: one self-contained HTML file, which makes no web requests.

Python writes the table, the facts and the pictures, which need no script; the script draws what can be
touched in the place of the pictures, from the same numbers.
"""

from poa_plugin.report.page.document import build_page

__all__ = ["build_page"]

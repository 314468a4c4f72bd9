"""One page about a run: what it was, how it learnt, what it can do and where it fails.

:mod:`.run_files` and :mod:`.example_lines` read a run's folder, :mod:`.charts` draws, the sections make HTML of it, and
:mod:`.page` puts them together. The page needs nothing beside itself: no script, no font, no picture from elsewhere.
"""

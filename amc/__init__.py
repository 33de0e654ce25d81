"""The core of the search service: plans, costs, evaluation, tracking, the command line.

Importing it loads nothing heavy; the Python interface is ``amc.app``.
"""

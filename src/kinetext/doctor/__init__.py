"""What is wrong with a dataset, said before it is trained on: its files, copies, splits, labels, texts and shortcuts."""

from kinetext.doctor.cleaning import Change, clean, dropped
from kinetext.doctor.examination import Bar, Report, examine, quick
from kinetext.doctor.findings import SEVERITIES, Finding, Severity
from kinetext.doctor.page import body
from kinetext.doctor.shortcut import Score, Shortcut
from kinetext.doctor.subject import Plan

__all__ = [
    "SEVERITIES",
    "Bar",
    "Change",
    "Finding",
    "Plan",
    "Report",
    "Score",
    "Severity",
    "Shortcut",
    "body",
    "clean",
    "dropped",
    "examine",
    "quick",
]

"""How settings look, and what `doctor` finds."""

from collections.abc import Sequence
from dataclasses import replace

from rich.text import Text

from daemon.output.console import out, styled, table
from daemon.settings.load import SettingDescription
from jobs.checks.findings import Finding


def print_settings(described: Sequence[SettingDescription]) -> None:
    """Every setting."""
    shown = table("", "setting", "default", "meaning")
    for one in described:
        shown.add_row(Text(one.name), Text(one.default), Text(one.meaning))
    out.print(shown)


def print_findings(findings: Sequence[Finding]) -> None:
    """What the doctor found."""
    for finding in dict.fromkeys(replace(one, place=None) for one in findings):
        out.print(styled(finding.state) + Text(f"  {finding.check}: {finding.message}"))
        if finding.state != "ok" and finding.hint:
            out.print(Text("      to do: ", style="bold") + Text(finding.hint))

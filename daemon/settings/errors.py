"""What is wrong with settings, said without showing any."""

from collections.abc import Iterable


class SettingsError(Exception):
    """Settings that cannot be used: a line for each problem, with the setting's name, never its value."""

    hint = "`rowvault settings` lists every setting, with what it means"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        self.message = "\n".join(self.problems)
        super().__init__(self.message)

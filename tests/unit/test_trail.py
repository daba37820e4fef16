"""The audit trail's chain: whatever is done to what is stored of it is found, and what merely waits is not."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from storage.names import TRAIL
from storage.trail import MOST_PREVIOUS, Event, Link, ends_of, next_entry
from storage.trail_check import PlaceTrail, RecordedHead, TrailProblem, check_trail

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLACES = ("local", "s3")


@dataclass
class Written:
    """Trails as they are in places, written entry by entry."""

    objects: dict[str, dict[str, bytes]] = field(default_factory=lambda: {place: {} for place in PLACES})
    written: int = 0

    def links(self, *places: str) -> set[Link]:
        return {Link.parse(name) for place in places for name in self.objects[place]}

    def write(self, *places: str) -> Link:
        """One more entry, while only these places answer: they come into step first."""
        union = {name: data for place in places for name, data in self.objects[place].items()}
        event = Event(BEGAN + timedelta(seconds=self.written), "me@here", "backup", "success", f"b{self.written}")
        link, data = next_entry(event, self.links(*places), places)
        self.written += 1
        for place in places:
            self.objects[place] |= union | {str(link): data}
        return link

    def problems(self, *recorded: Link, places: tuple[str, ...] = PLACES) -> tuple[TrailProblem, ...]:
        trails = [PlaceTrail(place, self.objects[place]) for place in places]
        heads = [RecordedHead("a backup", link.number, link.sha256) for link in recorded]
        return check_trail(trails, heads).problems


def whole(entries: int, *places: str) -> tuple[Written, list[Link]]:
    """Places in step."""
    written = Written()
    return written, [written.write(*(places or PLACES)) for _ in range(entries)]


HISTORIES = st.lists(st.sampled_from([("local",), ("s3",), PLACES]), min_size=1, max_size=12)


@given(HISTORIES)
def test_places_that_come_and_go_leave_a_trail_that_is_unbroken(history: list[tuple[str, ...]]) -> None:
    written = Written()
    links = [written.write(*places) for places in history]
    assert written.problems(*links) == ()
    written.write(*PLACES)
    assert written.objects["local"] == written.objects["s3"]
    assert len(written.objects["local"]) == len(history) + 1
    assert len(ends_of(written.links("local"))) == 1


@given(HISTORIES, st.data())
def test_an_entry_with_any_byte_altered_is_found(history: list[tuple[str, ...]], data: st.DataObject) -> None:
    written = Written()
    for places in history:
        written.write(*places)
    place = data.draw(st.sampled_from([place for place in PLACES if written.objects[place]]))
    name = data.draw(st.sampled_from(sorted(written.objects[place])))
    stored = bytearray(written.objects[place][name])
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    written.objects[place][name] = bytes(stored)
    assert ("altered", place, name) in [(one.kind, one.place, one.object) for one in written.problems()]


@given(st.integers(1, 10), st.data())
def test_an_entry_removed_from_one_place_is_found(entries: int, data: st.DataObject) -> None:
    written, links = whole(entries)
    gone, place = data.draw(st.sampled_from(links)), data.draw(st.sampled_from(PLACES))
    del written.objects[place][str(gone)]
    (problem,) = written.problems()
    kind = "cut off" if gone == links[-1] else "removed"
    assert (problem.kind, problem.place, problem.entry) == (kind, place, gone.number)


@given(st.integers(2, 10), st.data())
def test_an_entry_removed_from_every_place_is_found(entries: int, data: st.DataObject) -> None:
    written, links = whole(entries)
    gone = data.draw(st.sampled_from(links[:-1]))
    for place in PLACES:
        del written.objects[place][str(gone)]
    assert {(one.kind, one.place, one.entry) for one in written.problems()} == {
        ("removed", place, gone.number) for place in PLACES
    }


@given(st.integers(1, 10), st.data())
def test_an_end_cut_off_everywhere_is_found_by_a_head_that_was_recorded(entries: int, data: st.DataObject) -> None:
    written, links = whole(entries)
    cut = data.draw(st.integers(0, entries - 1))
    for place in PLACES:
        for link in links[cut:]:
            del written.objects[place][str(link)]
    (problem,) = written.problems(links[-1])
    assert (problem.kind, problem.entry) == ("cut off", links[-1].number)
    assert written.problems() == ()  # nothing but a head elsewhere can know


@given(st.integers(2, 10), st.data())
def test_two_entries_that_changed_places_are_found(entries: int, data: st.DataObject) -> None:
    written, links = whole(entries, "local")
    one, other = data.draw(st.lists(st.sampled_from(links), min_size=2, max_size=2, unique=True))
    objects = written.objects["local"]
    objects[str(one)], objects[str(other)] = objects[str(other)], objects[str(one)]
    assert [problem.entry for problem in written.problems(places=("local",))] == sorted([one.number, other.number])


def test_a_trail_rewritten_from_some_entry_on_is_found_by_a_head_that_was_recorded() -> None:
    written, links = whole(5, "local")
    for link in links[2:]:
        del written.objects["local"][str(link)]
    for _ in range(3):
        written.write("local")
    (problem,) = written.problems(links[4], places=("local",))
    assert (problem.kind, problem.entry) == ("cut off", 5)


def test_an_entry_under_another_name_is_found() -> None:
    written, links = whole(3, "local")
    objects = written.objects["local"]
    objects[f"{TRAIL}elsewhere.json"] = objects.pop(str(links[1]))
    kinds = [(one.kind, one.entry) for one in written.problems(places=("local",))]
    assert kinds == [("removed", 2), ("stray", None)]


def test_an_entry_that_forges_its_number_is_found() -> None:
    written, links = whole(3, "local")
    forged = Link(7, links[2].sha256, links[2].previous)
    link, data = next_entry(Event(BEGAN, "me", "backup", "success"), [forged], ["local"])
    written.objects["local"][str(link)] = data
    assert [(one.kind, one.entry) for one in written.problems(places=("local",))] == [("altered", 8)]


def test_a_place_that_was_away_is_behind_and_not_broken() -> None:
    written, _ = whole(3)
    late = written.write("local")
    trails = [PlaceTrail(place, written.objects[place]) for place in PLACES]
    checked = check_trail(trails, [RecordedHead("a backup", late.number, late.sha256)])
    assert (checked.problems, dict(checked.behind)) == ((), {"local": 0, "s3": 1})


def test_entries_written_at_the_same_moment_are_both_followed_by_the_next() -> None:
    written, links = whole(2, "local")
    for reason in ("one", "other"):
        event = Event(BEGAN, "me", "keep", "success", reason)
        link, data = next_entry(event, links, ["local"])
        written.objects["local"][str(link)] = data
    assert len(ends_of(written.links("local"))) == 2
    joined = written.write("local")
    assert ends_of(written.links("local")) == [joined]
    assert written.problems(joined) == ()


def test_more_ends_than_a_name_has_room_for_are_followed_one_entry_after_another() -> None:
    written = Written()
    for number in range(2 * MOST_PREVIOUS):
        link, data = next_entry(Event(BEGAN, "me", "keep", "success", str(number)), [], ["local"])
        written.objects["local"][str(link)] = data
    assert len(str(written.write("local")).removeprefix(TRAIL)) <= 230
    while len(ends_of(written.links("local"))) > 1:
        written.write("local")
    assert written.problems(places=("local",)) == ()


def test_names_sort_as_entries_came() -> None:
    written, links = whole(12, "local")
    assert sorted(written.objects["local"]) == [str(link) for link in links]
    assert [Link.parse(str(link)) for link in links] == links

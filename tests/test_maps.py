"""Maps: parsing, errors that name file, line and column, generated families, and shortest paths against independent searches."""

from __future__ import annotations

import heapq
import pickle
from pathlib import Path

import numpy as np
import pytest

from textgym.toy.map_families import FAMILIES, SPLITS, generate, split_of
from textgym.toy.maps import EMBEDDED, MapError, checked, load_map, load_maps, parse_map
from textgym.toy.path_planning import demonstrations
from textgym.toy.shortest_paths import DELTAS, Lengths, components, distances, optimal_moves, transitions

pytestmark = pytest.mark.core

SIZES = {"walls": 8, "rooms": 8, "mazes": 9}


def dijkstra(walls: np.ndarray, source: int) -> list[int]:
    """An independent search: one map, a heap, no arrays."""
    height, width = walls.shape
    best, heap = {source: 0}, [(0, source)]
    while heap:
        length, cell = heapq.heappop(heap)
        row, column = divmod(cell, width)
        for r, c in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
            if 0 <= r < height and 0 <= c < width and not walls[r, c] and length + 1 < best.get(r * width + c, 10**9):
                best[r * width + c] = length + 1
                heapq.heappush(heap, (length + 1, r * width + c))
    return [best.get(cell, -1) for cell in range(height * width)]


class TestParsing:
    @pytest.mark.parametrize("name", EMBEDDED)
    def test_embedded_maps_are_sound_and_round_trip(self, name: str) -> None:
        maps = checked(load_maps(name))
        assert maps.text(0) == EMBEDDED[name]
        assert maps.goal_distances.reshape(-1)[maps.starts[0]] > 0
        assert load_maps(name) is maps

    def test_text_file_and_symbols_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "small.txt"
        file.write_bytes(b"\r\nS.#\r\n..G\r\n\r\n")
        for given in ("\nS.#\n..G\n", file, str(file)):
            maps = load_map(given)
            assert maps.walls.tolist() == [[[False, False, True], [False, False, False]]]
            assert (maps.starts.tolist(), maps.goals.tolist()) == ([0], [5])
        assert maps.names == (str(file),)
        assert load_map("S.G").walls.shape == (1, 1, 3)

    def test_several_maps_of_one_size(self) -> None:
        maps = load_maps(["S.\n.G", "G#\n.S"])
        assert (len(maps), maps.height, maps.width) == (2, 2, 2)
        assert maps.goals.tolist() == [3, 0]
        with pytest.raises(MapError, match=r"line 1, column 1: this map is 1 x 3, .* is 2 x 2"):
            load_maps(["S.\n.G", "S.G"])
        with pytest.raises(MapError, match="empty"):
            load_maps([])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"FILE, line 1, column 1: the map is empty"),
            ("\n\n", r"FILE, line 1, column 1: the map is empty"),
            ("S..\n..\n..G", r"FILE, line 2, column 3: this line has 2 symbols, line 1 has 3"),
            ("S..\n...G", r"FILE, line 2, column 4: this line has 4 symbols, line 1 has 3"),
            ("\nS..\n\n..G", r"FILE, line 3, column 1: this line has 0 symbols, line 2 has 3"),
            ("S..\n.x.\n..G", r"FILE, line 2, column 2: 'x' is no map symbol; known are '#' wall"),
            ("S. \n..G", r"FILE, line 1, column 3: ' ' is no map symbol"),
            ("S.G\n.S.", r"FILE, line 2, column 2: a second 'S'"),
            ("S.G\nG..", r"FILE, line 2, column 1: a second 'G'"),
            ("S..\n...", r"FILE, line 2, column 3: the map ends without a goal; draw one 'G', or ask for goal='random'"),
            ("...\n..G", r"FILE, line 2, column 3: the map ends without a start; draw one 'S'"),
            ("S.#\n.#G", r"FILE, line 2, column 3: no path leads to this goal from the start at FILE, line 1, column 1"),
        ],
    )
    def test_bad_maps_are_named_by_file_line_and_column(self, text: str, message: str, tmp_path: Path) -> None:
        file = tmp_path / "bad.txt"
        file.write_text(text)
        with pytest.raises(MapError) as caught:
            checked(load_map(file))
        assert caught.match(message.replace("FILE", str(file).replace(".", r"\.")))

    def test_cells_closed_in_and_files_that_are_not_there_or_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(MapError, match=r"line 1, column 3: walls close this cell in"):
            checked(parse_map(".#G\n..#"), needs_start=False)
        with pytest.raises(MapError, match=r"no two free cells touch"):
            checked(parse_map(".#.\n#.#"), needs_start=False, needs_goal=False)
        with pytest.raises(MapError, match=r"did you mean 'four_rooms'"):
            load_map("for_rooms")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(MapError, match=r"binary, line 1, column 1: this is no text"):
            load_map(tmp_path / "binary")


class TestFamilies:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_solvable_over_a_thousand_seeds(self, family: str) -> None:
        for seed in range(1_000):
            size = SIZES[family] if seed % 3 else 5
            maps = checked(generate.__wrapped__(family, size, num_maps=1, split=SPLITS[seed % 3], seed=seed))
            assert dijkstra(maps.walls[0], int(maps.goals[0]))[maps.starts[0]] >= size // 2

    def test_solvable_whatever_hypothesis_asks_for(self) -> None:
        hypothesis = pytest.importorskip("hypothesis")
        st = hypothesis.strategies

        @hypothesis.settings(max_examples=40, derandomize=True, deadline=None)
        @hypothesis.given(st.sampled_from(sorted(FAMILIES)), st.integers(4, 7), st.integers(4, 7), st.floats(0.05, 0.35), st.integers(0, 2**40))
        def solvable(family: str, half: int, other: int, density: float, seed: int) -> None:
            maps = checked(generate.__wrapped__(family, (2 * half - 1, 2 * other - 1), density, 3, seed=seed))
            lengths = maps.goal_distances.reshape(3, -1)[range(3), maps.starts]
            assert (lengths >= half + other - 1).all()

        solvable()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_splits_never_share_a_layout_even_of_other_seeds_and_sizes_of_sets(self, family: str) -> None:
        size, num = {"walls": (4, 30), "rooms": (6, 10), "mazes": (5, 20)}[family]  # small: by chance alone they would coincide
        seen: dict[str, set[bytes]] = {split: set() for split in SPLITS}
        for split in SPLITS:
            for seed in range(3):
                maps = generate(family, size, 0.3, num, split, seed, 1)
                seen[split] |= {layout.tobytes() for layout in maps.walls}
                assert {split_of(layout) for layout in maps.walls} == {split}
        assert not seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"]

    def test_maps_differ_and_the_longer_family_begins_with_the_shorter(self) -> None:
        long, short = generate("walls", num_maps=600), generate("walls", num_maps=20)
        assert len({layout.tobytes() for layout in long.walls}) == 600
        for name in ("walls", "starts", "goals"):
            assert np.array_equal(getattr(long, name)[:20], getattr(short, name))
        assert abs(long.walls.mean() - 0.15) < 0.01
        assert not np.array_equal(short.walls, generate("walls", num_maps=20, seed=1).walls)

    def test_rooms_and_mazes_are_of_one_piece_and_mazes_have_one_path(self) -> None:
        for family in ("rooms", "mazes"):
            walls = generate(family, (11, 15), num_maps=100).walls
            labels = components(~walls).reshape(100, -1)
            assert all(len(set(line[line >= 0].tolist())) == 1 for line in labels)
        free = ~walls
        edges = (free[:, 1:] & free[:, :-1]).sum((1, 2)) + (free[:, :, 1:] & free[:, :, :-1]).sum((1, 2))
        assert np.array_equal(edges, free.sum((1, 2)) - 1), "a tree has one edge less than cells"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"family": "caves"}, r"no family 'caves' of maps; give one of \['mazes', 'rooms', 'walls'\]"),
            ({"split": "dev"}, r"no split 'dev' of maps"),
            ({"family": "mazes", "size": 8}, r"odd sizes .* got 8 x 8; give size=9"),
            ({"density": 1.0}, r"density in \[0, 1\)"),
            ({"family": "mazes", "size": (5, 3), "num_maps": 50}, r"gave 6 different ones in \d+ draws; ask for num_maps=6 or fewer, a larger size"),
            ({"size": 2, "num_maps": 50}, r"gave 0 different ones in \d+ draws; ask for a larger size"),
        ],
    )
    def test_what_cannot_be_generated_says_why(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            generate(**{"family": "walls", **options})


class TestShortestPaths:
    def test_against_dijkstra_from_every_cell(self) -> None:
        for family in FAMILIES:
            maps = generate(family, SIZES[family], 0.3, 4)
            lengths, size = Lengths(maps.walls), maps.walls[0].size
            for index in range(len(maps)):
                for goal in np.flatnonzero(~maps.walls[index].reshape(-1)).tolist():
                    ours = lengths(index * size + np.arange(size), np.full(size, index * size + goal))
                    assert ours.tolist() == dijkstra(maps.walls[index], goal)

    def test_against_scipy(self) -> None:
        csgraph = pytest.importorskip("scipy.sparse.csgraph")
        sparse = pytest.importorskip("scipy.sparse")
        for maps in (generate("walls", 12, 0.35, 20), generate("mazes", 15, num_maps=20)):
            size = maps.walls[0].size
            for index, walls in enumerate(maps.walls):
                free, ways = ~walls, np.arange(size).reshape(walls.shape)
                down, right = free[1:] & free[:-1], free[:, 1:] & free[:, :-1]
                ends = np.concatenate([ways[:-1][down], ways[:, :-1][right]]), np.concatenate([ways[1:][down], ways[:, 1:][right]])
                graph = sparse.coo_matrix((np.ones(len(ends[0])), ends), shape=(size, size))
                theirs = csgraph.dijkstra(graph, directed=False, unweighted=True, indices=int(maps.goals[index]))
                theirs[np.isinf(theirs) | walls.reshape(-1)] = -1
                assert np.array_equal(maps.goal_distances[index].reshape(-1), theirs.astype(int))

    def test_the_memo_forgets_and_pickles_without_changing_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        maps = generate("walls", num_maps=5)
        monkeypatch.setattr("textgym.toy.shortest_paths.MEMO_ENTRIES", 64 * 7)
        small, generator = Lengths(maps.walls), np.random.default_rng(0)
        free = np.flatnonzero(~maps.walls.reshape(-1))
        for _ in range(50):
            goals = generator.choice(free, size=5)
            cells = goals // 64 * 64 + generator.integers(64, size=5)
            expected = [dijkstra(maps.walls[g // 64], g % 64)[c % 64] for c, g in zip(cells.tolist(), goals.tolist(), strict=True)]
            assert small(cells, goals).tolist() == expected == pickle.loads(pickle.dumps(small))(cells, goals).tolist()

    def test_optimal_moves_are_those_that_shorten_the_way(self) -> None:
        maps = generate("walls", num_maps=10)
        optimal, moves, size = optimal_moves(maps.goal_distances), transitions(maps.walls).reshape(-1, 4), 64
        found = maps.goal_distances.reshape(-1)
        assert np.array_equal(optimal.reshape(-1, 4), (found[moves] == found[:, None] - 1) & (found > 0)[:, None])
        assert (found[maps.goals + np.arange(10) * size] == 0).all()
        assert not distances(np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)).max() >= 0, "a wall is no source"

    def test_demonstrations_walk_to_the_goal_by_the_shortest_way(self) -> None:
        maps = generate("walls", num_maps=30, split="test")
        shown = demonstrations(maps)
        assert shown.observations.shape == (len(shown.actions), 4)
        assert shown.starts.sum() == 30
        assert shown.optimal[np.arange(len(shown.actions)), shown.actions].all()
        begins = np.flatnonzero(shown.starts)
        lengths = np.diff([*begins, len(shown.starts)])
        assert np.array_equal(lengths, maps.goal_distances.reshape(30, -1)[range(30), maps.starts])
        place = np.floor(shown.observations[:, :2] * 8).astype(int)[:, ::-1] + DELTAS[shown.actions]  # where each move leads
        last = [*(begins[1:] - 1), len(place) - 1]
        assert (place[last] * [8, 1]).sum(axis=1).tolist() == maps.goals.tolist()
        inner = np.setdiff1d(np.arange(len(place)), last)
        assert np.array_equal(place[inner], np.floor(shown.observations[inner + 1, :2] * 8).astype(int)[:, ::-1])

    def test_demonstrations_of_every_cell_and_of_a_view(self) -> None:
        maps = generate("walls", num_maps=5)
        shown = demonstrations(maps, view="map", every_cell=True)
        assert len(shown.actions) == (maps.goal_distances > 0).sum()
        assert shown.observations.shape[1:] == (7, 8, 8)
        assert shown.starts.all()

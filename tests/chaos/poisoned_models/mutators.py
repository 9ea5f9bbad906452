"""Damage to text models, by name: each function takes a die and a text, and damages the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

Mutator = Callable[[Random, str], str]

_ODD_NUMBERS = (
    *(
        "nan",
        "NaN",
        "-nan",
        "inf",
        "-inf",
        "1e999",
        "-1e999",
        "1e308",
        "-1e308",
        "1.7976931348623157e308",
        "1e-400",
        "0x10",
        "1_0",
        "",
        "-",
    ),
    *(
        "--1",
        "1e",
        "1.2.3",
        "٣",
        "1,5",
        "+1",
        " 1",
        "99999999999999999999",
        "-99999999999999999999",
        "2147483648",
        "-2147483649",
        "NULL",
    ),
)
_TREE_LISTS = (
    *(
        "split_feature",
        "split_gain",
        "threshold",
        "decision_type",
        "left_child",
        "right_child",
        "leaf_value",
        "leaf_weight",
        "leaf_count",
    ),
    *("internal_value", "internal_weight", "internal_count", "cat_boundaries", "cat_threshold"),
)
_TREE_COUNTS = ("num_leaves", "num_cat", "is_linear", "shrinkage")
_HEADER = (
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "tree_sizes",
)


def with_true_sizes(text: str) -> str:
    """Return the text with true ``tree_sizes``, so that a damaged tree is read up to the damage."""
    begin, end = text.find("\n\nTree=0\n"), text.find("end of trees")
    if begin < 0 or end < begin:
        return text
    trees = re.split(r"(?=^Tree=)", text[begin + 2 : end], flags=re.MULTILINE)
    sizes = " ".join(str(len(tree.encode())) for tree in trees if tree)
    return re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", text, count=1, flags=re.MULTILINE)


def _edit(die: Random, text: str, key: str, change: Callable[[list[str]], list[str]]) -> str:
    """Change the words of one of the lines ``key=…``."""
    lines = list(re.finditer(rf"^{key}=(.*)$", text, flags=re.MULTILINE))
    if not lines:
        return _change_digit(die, text)
    line = die.choice(lines)
    return (
        text[: line.start()] + f"{key}={' '.join(change(line[1].split(' ')))}" + text[line.end() :]
    )


def _put(die: Random, word: str) -> Callable[[list[str]], list[str]]:
    def change(words: list[str]) -> list[str]:
        place = die.randrange(len(words))
        return [*words[:place], word, *words[place + 1 :]]

    return change


def _replace_number(keys: tuple[str, ...], *numbers: str) -> Mutator:
    return lambda die, text: _edit(die, text, die.choice(keys), _put(die, die.choice(numbers)))


def _truncate(die: Random, text: str) -> str:
    return text[: die.randrange(len(text))]


def _truncate_but_end(die: Random, text: str) -> str:
    begin = die.randrange(len(text))
    return text[:begin] + text[die.randrange(begin, len(text)) :]


def _flip_bit(die: Random, text: str) -> str:
    place = die.randrange(len(text))
    return text[:place] + chr(ord(text[place]) ^ 1 << die.randrange(7)) + text[place + 1 :]


def _change_digit(die: Random, text: str) -> str:
    place = die.choice([match.start() for match in re.finditer(r"\d", text)] or [0])
    return text[:place] + str(die.randrange(10)) + text[place + 1 :]


def _lines(change: Callable[[Random, list[str]], list[str]]) -> Mutator:
    return lambda die, text: "\n".join(change(die, text.split("\n")))


def _swap_lines(die: Random, lines: list[str]) -> list[str]:
    a, b = die.randrange(len(lines)), die.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def _repeat_line(die: Random, lines: list[str]) -> list[str]:
    place = die.randrange(len(lines))
    return [*lines[:place], lines[place], *lines[place:]]


def _drop_line(die: Random, lines: list[str]) -> list[str]:
    place = die.randrange(len(lines))
    return lines[:place] + lines[place + 1 :]


def _contradict_line(die: Random, lines: list[str]) -> list[str]:
    """Repeat a key with another value."""
    place = die.choice([number for number, line in enumerate(lines) if "=" in line] or [0])
    key = lines[place].partition("=")[0]
    return [
        *lines[:place],
        f"{key}={die.choice(('0', '1', '-1', '999999', 'nan', ''))}",
        *lines[place:],
    ]


def _empty_line(die: Random, lines: list[str]) -> list[str]:
    place = die.randrange(len(lines))
    return [*lines[:place], lines[place].partition("=")[0] + "=", *lines[place + 1 :]]


def _child(die: Random, text: str) -> str:
    number = die.choice(
        (0, 1, 2, 3, -1, -2, die.randrange(-40, 40), 10**6, -(10**6), 2**31 - 1, -(2**31))
    )
    return _edit(die, text, die.choice(("left_child", "right_child")), _put(die, str(number)))


def _cycle(die: Random, text: str) -> str:
    """Let a node be its own child, or its child's."""

    def change(words: list[str]) -> list[str]:
        place = die.randrange(len(words))
        return [*words[:place], str(die.choice((place, max(place - 1, 0)))), *words[place + 1 :]]

    return _edit(die, text, die.choice(("left_child", "right_child")), change)


def _detached_ring(die: Random, text: str) -> str:
    """Exchange two children of one side.

    Each node is still a child once, but perhaps not the root's descendant.
    """
    return _edit(
        die, text, die.choice(("left_child", "right_child")), lambda words: _swapped(die, words)
    )


def _swapped(die: Random, words: list[str]) -> list[str]:
    a, b = die.randrange(len(words)), die.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    return words


def _drop_word(die: Random, text: str) -> str:
    return _edit(die, text, die.choice(_TREE_LISTS), lambda words: words[:-1])


def _add_word(die: Random, text: str) -> str:
    return _edit(
        die,
        text,
        die.choice(_TREE_LISTS),
        lambda words: [*words, *[words[-1]] * die.choice((1, 2, 500))],
    )


def _swap_names(die: Random, text: str) -> str:
    return _edit(die, text, "feature_names", lambda words: _swapped(die, words))


def _other_feature(die: Random, text: str) -> str:
    return _edit(
        die, text, "split_feature", _put(die, str(die.choice((0, 1, 2, 3, -1, 50, 10**9))))
    )


def _no_trees(die: Random, text: str) -> str:
    begin, end = text.find("\n\nTree=0\n"), text.find("end of trees")
    without = text[: begin + 2] + text[end:] if 0 <= begin < end else text
    sizes = die.choice(("tree_sizes=", "tree_sizes=0", "tree_sizes=-1", "", "tree_sizes=1000000"))
    return re.sub(r"^tree_sizes=.*$", sizes, without, count=1, flags=re.MULTILINE)


def _trees(change: Callable[[Random, list[str]], list[str]]) -> Mutator:
    def mutate(die: Random, text: str) -> str:
        begin, end = text.find("\n\nTree=0\n"), text.find("end of trees")
        if begin < 0 or end < begin:
            return text
        trees = [
            tree
            for tree in re.split(r"(?=^Tree=)", text[begin + 2 : end], flags=re.MULTILINE)
            if tree
        ]
        return text[: begin + 2] + "".join(change(die, trees)) + text[end:]

    return mutate


def _chain(die: Random, trees: list[str]) -> list[str]:
    """Replace a tree by one that is as deep as it has leaves."""
    n = die.choice((60, 600, 5_000))
    lists = {
        "split_feature": ["0"] * (n - 1),
        "split_gain": ["1"] * (n - 1),
        "threshold": [str(number) for number in range(n - 1)],
        "decision_type": ["2"] * (n - 1),
        "left_child": [str(-number - 1) for number in range(n - 1)],
        "right_child": [*map(str, range(1, n - 1)), str(-n)],
        "leaf_value": ["0.1"] * n,
        "leaf_weight": ["1"] * n,
        "leaf_count": ["1"] * n,
        "internal_value": ["0"] * (n - 1),
        "internal_weight": ["1"] * (n - 1),
        "internal_count": ["2"] * (n - 1),
    }
    place = die.randrange(len(trees))
    body = "\n".join(f"{key}={' '.join(words)}" for key, words in lists.items())
    trees[place] = (
        f"Tree={place}\nnum_leaves={n}\nnum_cat=0\n{body}\nis_linear=0\nshrinkage=0.1\n\n\n"
    )
    return trees


def _linear(die: Random, text: str) -> str:
    more = die.choice(
        (
            "",
            "\nleaf_const=nan",
            "\nleaf_const=0 0 0\nnum_features=1 1 1\nleaf_features=0 0 0\nleaf_coeff=nan nan nan",
        )
    )
    return _edit(die, text, "is_linear", lambda _: [f"1{more}"])


def _parameters(die: Random, text: str) -> str:
    line = die.choice(
        (
            "no colon",
            "[",
            "]",
            ":",
            "[learning_rate]",
            '[data: "]',
            "[learning_rate: x]",
            "[num_leaves: 1e999]",
            "[a: \\]",
        )
    )
    return text.replace("[boosting: gbdt]", die.choice((line, f"[boosting: gbdt]\n{line}")))


def _encoding(die: Random, text: str) -> str:
    way = die.randrange(6)
    changed = (
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        text.encode("utf-16").decode("latin-1"),
        text.replace(" ", "\u00a0", die.randrange(1, 50)),
        text.replace("0", "\u0660", die.randrange(1, 50)),
        text.replace("=", "=\0", die.randrange(1, 50)),
    )
    return changed[way]


def _raw_categories(die: Random, text: str) -> str:
    return text.replace(
        "pandas_categorical:null",
        die.choice(
            ('pandas_categorical:[["x"]]', "pandas_categorical:", "pandas_categorical:[[", "")
        ),
    )


def _reverse_trees(die: Random, trees: list[str]) -> list[str]:
    die.shuffle(trees)
    return trees


def _drop_tree(die: Random, trees: list[str]) -> list[str]:
    trees.pop(die.randrange(len(trees)))
    return trees


def _repeat_tree(die: Random, trees: list[str]) -> list[str]:
    return [*trees, die.choice(trees)]


def _shift_leaf(die: Random, text: str) -> str:
    """Change a score that still looks like one."""
    return _edit(die, text, "leaf_value", _put(die, f"{die.uniform(-1, 1):.6f}"))


MUTATORS: dict[str, Mutator] = {
    "truncated": _truncate,
    "part missing": _truncate_but_end,
    "bit flipped": _flip_bit,
    "digit changed": _change_digit,
    "lines swapped": _lines(_swap_lines),
    "line repeated": _lines(_repeat_line),
    "line missing": _lines(_drop_line),
    "key contradicted": _lines(_contradict_line),
    "line emptied": _lines(_empty_line),
    "child elsewhere": _child,
    "cycle": _cycle,
    "children exchanged": _detached_ring,
    "leaf odd": _replace_number(("leaf_value",), *_ODD_NUMBERS),
    "leaf huge": _replace_number(("leaf_value",), "1e300", "-1e300", "1e13", "9e307"),
    "leaf other": _shift_leaf,
    "threshold odd": _replace_number(("threshold",), *_ODD_NUMBERS),
    "number odd": _replace_number(_TREE_LISTS, *_ODD_NUMBERS),
    "count odd": _replace_number(
        _TREE_COUNTS, *_ODD_NUMBERS, "0", "1", "-1", "3", "1000000", "2000000000"
    ),
    "rows negative": _replace_number(
        ("leaf_count", "internal_count"), "-1", "0", "-2147483648", "2147483647"
    ),
    "word missing": _drop_word,
    "word too many": _add_word,
    "names swapped": _swap_names,
    "feature other": _other_feature,
    "header odd": _replace_number(
        _HEADER,
        *_ODD_NUMBERS,
        "0",
        "2",
        "-1",
        "1000000000",
        "none",
        "binary",
        "multiclass",
        "rank_xendcg",
    ),
    "decision other": _replace_number(("decision_type",), *map(str, range(-3, 20)), "255", "256"),
    "sets of levels": _replace_number(
        ("cat_boundaries", "cat_threshold", "num_cat"),
        "0",
        "1",
        "-1",
        "4294967295",
        "4294967296",
        "1000000",
    ),
    "no trees": _no_trees,
    "trees reordered": _trees(_reverse_trees),
    "tree missing": _trees(_drop_tree),
    "tree repeated": _trees(_repeat_tree),
    "tree deep": _trees(_chain),
    "linear leaves": _linear,
    "parameters": _parameters,
    "encoding": _encoding,
    "raw categories": _raw_categories,
}


def mutant(seed: int, number: int, strings: list[str]) -> tuple[str, str]:
    """Return type and text of a mutant: all types of damage to one model, then to the next.

    One in five is damaged twice; most have true sizes.
    """
    die = Random(f"{seed} {number}")  # noqa: S311 - reproducible damage, no secret
    kind = list(MUTATORS)[number % len(MUTATORS)]
    text = MUTATORS[kind](die, strings[number // len(MUTATORS) % len(strings)])
    if text and die.random() < 0.2:
        text = MUTATORS[die.choice(list(MUTATORS))](die, text)
    return kind, with_true_sizes(text) if die.random() < 0.8 else text

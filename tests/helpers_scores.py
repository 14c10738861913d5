"""Hypotheses of a made-up evaluation, for the tests of tables and plots."""

import itertools

from omni_avsr.types import Hypothesis, Task

COLUMNS = ["ASR 4", "ASR 16", "VSR 2", "VSR 5", "AVSR 4,2", "AVSR 4,5", "AVSR 16,2", "AVSR 16,5"]


def decoded(column: str, num_wrong: int, **more) -> list[Hypothesis]:
    """Ten clips of ten words, ``num_wrong`` of the hundred words wrong."""
    task, rates = column.split()
    wrong = [i < num_wrong for i in range(100)]
    return [
        Hypothesis(
            str(i),
            Task(task.lower()),
            rates,
            " ".join("aaaaaaaaaa"),
            " ".join("xa"[not w] for w in wrong[i::10]),
            **more,
        )
        for i in range(10)
    ]


def evaluation() -> list[Hypothesis]:
    """All columns on clean speech, column n with n % WER; those that hear in noise too; swapped video at -5 dB."""
    clean = itertools.chain.from_iterable(decoded(column, n) for n, column in reversed(list(enumerate(COLUMNS))))
    heard = [column for column in COLUMNS if not column.startswith("VSR")]
    noisy = [h for snr in (-5.0, 0.0, 5.0) for c in heard for h in decoded(c, int(30 - 4 * snr), snr_db=snr)]
    return [*clean, *noisy, *decoded("AVSR 4,2", 90, snr_db=-5.0, condition="swapped")]

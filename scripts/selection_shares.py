"""How often a run's selection phase kept each domain and class.

python scripts/selection_shares.py runs/pacs-sketch/scmd-lr-1e-4-seed0
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import tyro

from scmd.config import load_config


def main(run: tyro.conf.Positional[Path]) -> None:
    """Join the selection log with the samples and print shares.

    Args:
        run: Folder of a finished SCMD run.
    """
    config = load_config(run / "config.toml")
    phases = config.hparams.phases()  # the end of a warm-up, if any, and of the selection
    first, last = (phases[0] if len(phases) == 2 else 0.0), (phases[-1] if phases else 1.0)
    log = pq.read_table(run / "selection.parquet")
    print(f"{log.num_rows:,} decisions")
    progress = log["step"].to_numpy() / config.training.steps
    log = log.filter((progress >= first) & (progress < last))
    log = log.join(pq.read_table(run / "samples.parquet"), "sample_id")
    for key in ("domain", "class"):
        table = log.group_by(key).aggregate([("kept", "mean"), ("kept", "count")]).sort_by(key)
        for row in table.to_pylist():
            print(f"{row[key]:14} kept {row['kept_mean']:.3f} of {row['kept_count']:,}")


if __name__ == "__main__":
    tyro.cli(main)

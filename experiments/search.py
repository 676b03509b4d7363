"""The search (Bello et al., 2017, sections 3, 4, 5.1): update rules for small networks.

Claim:    rules that a search finds train well (figure 4, section 5.1). With --protocol paper the
          paper's controller writes them, with --preset paper by the paper's numbers, else
          evolution.
Command:  python experiments/search.py                 (four small tasks, minutes on 2 cores)
          python experiments/search.py --protocol paper --preset paper --task cifar10 \
              --data-dir DIR --samples 10000
          python experiments/search.py --out runs/a --resume    (after whatever ended it)
          python experiments/search.py --prepare-data cifar-10-binary.tar.gz --data-dir DIR
          Where only the package is installed: python -m nos_optax.search
Writes:   runs/DATE-TIME: config.json, history.sqlite, and at the end candidates.jsonl,
          results.json, best/*.py, report.html and its pictures in report/
"""

from nos_optax.search.command import main

if __name__ == "__main__":
    main()

"""The paper's experiments by name: `python -m zeromamba.experiments NAME`.

`grids.py` declares them, `run.py` runs what is not done, `tables.py` and `charts.py` put the results beside what the
paper prints, which is in `../paper.csv`.
"""

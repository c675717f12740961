"""Reports: read the files of runs; write tables, figures, pages and model cards. No torch."""

"""Reports: files of runs in; tables, figures, pages and model cards out. No torch."""

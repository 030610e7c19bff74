"""EHR variables of a cohort -> chart rows: numbers and an observed mask, fitted on training patients only."""

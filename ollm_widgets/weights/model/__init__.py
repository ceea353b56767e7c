"""An unmodified transformers model without its weights: building it, finding its parts."""

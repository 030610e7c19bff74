"""The parallel, resumable builder of a store, with quarantine."""

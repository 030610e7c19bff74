"""JPEG, PNG, DICOM -> one grey image."""

"""Turns volumes, DICOM series, tables and archives into class folders of grey PNG files."""

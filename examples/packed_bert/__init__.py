"""Three ways to serve samples of many lengths with one BERT: padded, packed across rows, packed within rows."""

"""One file, one family. `family` says what such a file must offer and finds it by its name."""

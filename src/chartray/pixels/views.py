"""Target, random and focal views, made on the device."""

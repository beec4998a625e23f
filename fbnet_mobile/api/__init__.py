"""The functions behind the commands and behind ``import fbnet_mobile as fm``, one module each."""

"""The five functions behind the five commands and behind ``import fbnet_mobile as fm``, one module each."""

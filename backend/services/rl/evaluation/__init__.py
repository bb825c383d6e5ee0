"""The yardstick: paired evaluation of policies on the same days, and its reports."""

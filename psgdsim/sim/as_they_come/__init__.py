"""An asynchronous server and its workers, as a whole: first when each gradient comes, then what comes of them.

`run` does what the programs of `parameter_server` with sync `async` do, message by message; only quicker. `arrivals`
finds out when everything happens; nothing there knows a value. `values` computes all gradients in the order in which
they came. `wires` says what that does to links, and `reports` what each rank has to report.
"""

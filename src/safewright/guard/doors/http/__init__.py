"""The guard behind an HTTP address.

`tokens` says who may ask what, `bodies` what is asked and answered, `state` what several workers share, `metrics`
what is counted, `routes` what there is, `checking` and `operating` answer, `app` is the door, `page` the console.
No decision is made here: a call becomes an `Action`, the guard judges it, its `Verdict` becomes JSON.
"""

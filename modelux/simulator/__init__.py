"""The stand-in provider: a provider's wire format, faults on demand, and a ledger.

The ledger is what it billed and received: the truth that tests compare ours with.

```
 bytes ─► server ─► provider ─► request ─► answers ─► faults ─► steps ─► server ─► bytes
                       ▲                                                    │
            settings (flags, model, path, name, header)                     └─► ledger
```

`settings` says how to behave, `request` reads what is asked, `answers` makes the honest
answer, `faults` spoils it, `provider` decides between them, `server` plays the steps that come
out, `ledger` bills. Only `server` does I/O.
"""

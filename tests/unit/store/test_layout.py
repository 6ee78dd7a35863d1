"""The boot id tells boots apart, and nothing within one."""

from modelux.store.layout import BOOT_ID_PATH, boot_id


def test_the_boot_id_is_the_kernels_and_stays_within_a_boot() -> None:
    assert boot_id() == BOOT_ID_PATH.read_text().strip()
    assert boot_id() == boot_id() != ""

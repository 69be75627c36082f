"""System call filter of the data process: a list of refused calls.

Classic BPF (Linux, ``seccomp(2)``), for x86-64 and AArch64; the numbers are from the kernel's UAPI
headers. Calls that are not listed are allowed, and the kernel itself is trusted. A call of another
architecture, or with an x32 number, kills the process.
"""

from __future__ import annotations

import ctypes
import os
import platform

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_EVERY_NAMESPACE = 0x7E020080  # cgroup, uts, ipc, user, pid, net, mount, time
_EPERM, _ENOSYS = 1, 38

# system call: (x86-64, AArch64); None where it does not exist
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept4": (288, 242),
    "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "fork": (57, None),
    "vfork": (58, None),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "open_tree_attr": (467, 467),
    "fspick": (433, 433),
    # watching file activity: when a ledger row or a stored reply is written
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # other processes of this user
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "process_madvise": (440, 440),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # not covered by Landlock: modes, owners, times and attributes of files and, before Linux 6.2,
    # their length
    "truncate": (76, 45),
    "file_setattr": (469, 469),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "chroot": (161, 51),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}
_CLONE, _CLONE3, _IOCTL_CALL, _PRLIMIT = (56, 220), (435, 435), (16, 29), (302, 261)
_TGKILL, _FCNTL = (234, 131), (72, 25)
# F_SETOWN, F_SETSIG, F_SETOWN_EX: make the kernel signal another process; F_NOTIFY: watch a folder
SIGNALS_OR_WATCHES = (8, 10, 15, 1026)
_CLONE_THREAD = 0x10000
_KIND_OF_IOCTL = 0xFF00
_OF_A_FILE_SYSTEM = (ord("f") << 8, ord("v") << 8, ord("X") << 8)  # attributes, versions, freezing
TYPED_INTO_A_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.POINTER(_Filter)))


_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _MASK, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24


def program(machine: str, process: int) -> list[tuple[int, int, int, int]]:
    """Return the classic BPF program as (code, jump if true, jump if false, k).

    Empty for an unknown ``machine``. ``process``: id of the filtered process, which may signal its
    own threads.
    """
    if machine not in _ARCHITECTURES:
        return []
    column, architecture = _ARCHITECTURES[machine]
    numbers = [call[column] for call in _REFUSED.values() if call[column] is not None]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # the x32 numbers of the same calls
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    for number in numbers:
        lines += [(_EQUAL, 0, 1, number or 0), (_RETURN, 0, 0, _ERROR | _EPERM)]
    # clone3 has its flags in memory that a filter cannot read; ENOSYS makes libc use clone.
    lines += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    lines += [  # allow clone only for threads, without new namespaces
        (_EQUAL, 0, 5, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 2, _CLONE_THREAD),
        (_ANY_BIT, 1, 0, _EVERY_NAMESPACE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | _EPERM),
    ]
    lines += [  # allow ioctl on devices, but no terminal input and no change of file attributes
        (_EQUAL, 0, 9, _IOCTL_CALL[column]),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_EQUAL, 6, 0, TYPED_INTO_A_TERMINAL[0]),
        (_EQUAL, 5, 0, TYPED_INTO_A_TERMINAL[1]),
        (_MASK, 0, 0, _KIND_OF_IOCTL),
        *((_EQUAL, 3 - at, 0, kind) for at, kind in enumerate(_OF_A_FILE_SYSTEM)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | _EPERM),
    ]
    lines += [  # allow fcntl for file locks and descriptor flags
        (_EQUAL, 0, 7, _FCNTL[column]),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        *((_EQUAL, 4 - at, 0, what) for at, what in enumerate(SIGNALS_OR_WATCHES)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | _EPERM),
    ]
    lines += [  # allow signals to its own threads only
        (_EQUAL, 0, 4, _TGKILL[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, process),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | _EPERM),
    ]
    lines += [  # allow limits of its own process only
        (_EQUAL, 0, 3, _PRLIMIT[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERROR | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return lines


def refuse_calls(libc: ctypes.CDLL) -> None:
    """Install the filter in this process, if there is one for this machine."""
    lines = program(platform.machine(), os.getpid())
    if not lines:
        return
    filters = (_Filter * len(lines))(*(_Filter(*line) for line in lines))
    whole = _Program(len(lines), filters)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0)

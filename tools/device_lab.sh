#!/usr/bin/env bash
# Builds the devices that `make test-devices` tests against, each once, into .devices-cache/:
#   adbd      Android's own daemon, compiled from Debian's source package android-platform-tools
#   android/  a root with Android's shell (mksh) and tools (toybox) and that daemon
#   arm/      an aarch64 Debian with Python, LiteRT, ONNX Runtime and sshd, run through qemu-user
# With arguments it then runs them as a command in network and mount namespaces of its own, in which adbd, which asks
# for no key, can be reached by nobody else, and in which the roots have their /proc, /sys and /dev.
# Needs root (or sudo) on Debian. Packages come from the mirror and index that this machine is configured with.
set -euo pipefail
cd "$(dirname "$0")/.."
CACHE=$PWD/.devices-cache
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
mkdir -p "$CACHE"
say() { echo "device lab: $*" >&2; }

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "needs root, for network namespaces and chroot; run it as root"; exit 1; }
    exec sudo --preserve-env tools/device_lab.sh "$@"
fi

packages() {
    local wanted="openssh-server openssh-client adb mksh toybox qemu-user-static mmdebstrap clang android-libbase-dev
        android-liblog-dev android-libcutils-dev android-libboringssl-dev libcap-dev dpkg-dev iproute2"
    local missing="" name
    for name in $wanted; do dpkg -s "$name" >/dev/null 2>&1 || missing="$missing $name"; done
    [ -z "$missing" ] && return
    say "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

build_adbd() {
    [ -x "$CACHE/adbd" ] && return
    say "compiling adbd"
    local work=$CACHE/build
    mkdir -p "$work/sources" "$work/lists/partial" "$work/objects"
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/*.sources >"$work/sources/src.sources"
    printf 'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "%s";\nDir::State::lists "%s";\nAPT::Sandbox::User "root";\n' \
        "$work/sources" "$work/lists" >"$work/apt.conf"
    (
        cd "$work"
        export APT_CONFIG=$work/apt.conf
        apt-get update -qq
        apt-get source -qq --download-only android-platform-tools
        rm -rf source
        dpkg-source --no-check -x android-platform-tools_*.dsc source >/dev/null
    )
    local tree=$work/source core=$work/source/system/core
    local adb=$core/adb auth=$work/source/frameworks/native/libs/adbd_auth
    local sources="" name
    for name in adb adb_io adb_listeners adb_trace adb_unique_fd adb_utils fdevent/fdevent fdevent/fdevent_poll \
        fdevent/fdevent_epoll services sockets socket_spec sysdeps/errno transport transport_fd transport_local \
        transport_usb types sysdeps_unix sysdeps/posix/network daemon/auth daemon/jdwp_service daemon/usb_dummy \
        daemon/file_sync_service daemon/services daemon/shell_service shell_service_protocol daemon/main \
        adbconnection/adbconnection_server; do sources="$sources $adb/$name.cpp"; done
    sources="$sources $core/diagnose_usb/diagnose_usb.cpp $core/libasyncio/AsyncIO.cpp $auth/adbd_auth.cpp"
    sources="$sources $core/libcrypto_utils/android_pubkey.c"
    local flags="-O1 -w -fPIE -D_GNU_SOURCE -DADB_HOST=0 -DALLOW_ADBD_ROOT=1 -DALLOW_ADBD_DISABLE_VERITY
        -DALLOW_ADBD_NO_AUTH -DANDROID_BASE_UNIQUE_FD_DISABLE_IMPLICIT_CONVERSION=1 -DADB_VERSION=\"29.0.6-debian\"
        -DPLATFORM_TOOLS_VERSION=\"29.0.6\" -I/usr/include/android -I$adb -I$adb/daemon/include
        -I$adb/adbconnection/include -I$core/base/include -I$core/include -I$core/diagnose_usb/include
        -I$core/libcrypto_utils/include -I$core/libcutils/include -I$core/libasyncio/include -I$auth/include"
    local cxx="-x c++ -std=gnu++2a -include atomic -include optional -include string"
    export work flags cxx tree
    # shellcheck disable=SC2016,SC2086  # expanded by the inner shell, one compiler a source
    printf '%s\n' $sources | xargs -P "$(nproc)" -I{} bash -c '
        object=$work/objects/$(echo "${1#"$tree"/}" | tr / _).o
        case $1 in *.c) clang -c $flags -o "$object" "$1" ;; *) clang $cxx -c $flags -o "$object" "$1" ;; esac' _ {}
    local libraries
    libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/android
    clang++ -pie -o "$CACHE/adbd.partial" "$work"/objects/*.o -L"$libraries" -Wl,-rpath,"$libraries" \
        -lbase -lcrypto -lcutils -llog -lpthread -lresolv -lutil -lcap
    mv "$CACHE/adbd.partial" "$CACHE/adbd"
    rm -rf "$work"
}

# Puts a program and the libraries it needs into a root, where they are on this machine.
with_libraries() {
    local root=$1 program=$2 target=$3 library
    install -D "$program" "$root$target"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D "$(readlink -f "$library")" "$root$library"
    done
}

build_android() {
    [ -e "$CACHE/android/ready" ] && return
    say "setting up Android's shell and tools"
    local root=$CACHE/android tool
    rm -rf "$root"
    mkdir -p "$root"/{proc,sys,dev,etc,bin,system/bin,data/local/tmp}
    with_libraries "$root" "$CACHE/adbd" /adbd
    with_libraries "$root" "$(command -v mksh)" /system/bin/sh
    ln -s ../system/bin/sh "$root/bin/sh"
    with_libraries "$root" "$(command -v toybox)" /system/bin/toybox
    for tool in $(chroot "$root" /system/bin/toybox); do
        [ "$tool" = sh ] || ln -sf toybox "$root/system/bin/$tool"
    done
    echo 'root:x:0:0::/:/system/bin/sh' >"$root/etc/passwd"
    touch "$root/ready"
}

build_arm() {
    [ -e "$CACHE/arm/ready" ] && return
    say "installing an aarch64 Debian and the wheels of its runtimes"
    local root=$CACHE/arm mirror suite version
    mirror=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/*.sources | head -1)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    rm -rf "$root"
    mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3-minimal,libpython3-stdlib,libstdc++6,coreutils,dash,bash,tar,findutils,openssh-server,openssh-sftp-server,util-linux,procps,grep,sed,gawk,libcap2 \
        "$suite" "$root" "$mirror" >&2
    version=$(cd "$root/usr/bin" && ls | grep -x 'python3\.[0-9]*')
    ln -sf "$version" "$root/usr/bin/python3"
    ln -sf gawk "$root/usr/bin/awk"
    ln -sf dash "$root/bin/sh"
    printf 'root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    mkdir -p "$root"/{proc,sys,dev,run/sshd,root,tmp,data/local/tmp,opt/site}
    chmod 1777 "$root/tmp"
    "$PYTHON" -m pip install --quiet --no-warn-conflicts --target "$root/opt/site" --only-binary=:all: --python-version "${version#python}" \
        --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 ai-edge-litert onnxruntime >&2
    # What XNNPACK reads to choose its kernels, of a Raspberry Pi 4; this machine's own would name an x86 processor.
    local core
    for core in 0 1; do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n' "$core"
    done >"$root/opt/cpuinfo"
    with_libraries "$root" "$CACHE/adbd" /adbd
    touch "$root/ready"
}

run_inside() {
    export DEVICES_CACHE=$CACHE
    # qemu must be known to the kernel for aarch64 programs before namespaces are entered.
    if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; fi
    if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
        cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
    fi
    # shellcheck disable=SC2016  # expanded inside
    exec unshare --net --mount bash -c '
        set -e
        ip link set lo up
        for root in "$DEVICES_CACHE/android" "$DEVICES_CACHE/arm"; do
            mount -t proc proc "$root/proc"
            mount --bind /sys "$root/sys"
            mount --bind /dev "$root/dev"
        done
        mount --bind "$DEVICES_CACHE/arm/opt/cpuinfo" "$DEVICES_CACHE/arm/proc/cpuinfo"
        exec "$@"' _ "$@"
}

ls /etc/apt/sources.list.d/*.sources >/dev/null || { say "needs Debian 12 or later, with its mirror in *.sources"; exit 1; }
packages
build_adbd
build_android
build_arm
if [ $# -gt 0 ]; then run_inside "$@"; fi

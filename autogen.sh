#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Makes ./configure. Needs autoconf, automake, libtool and pkgconf.
set -eu
cd "$(dirname "$0")"
mkdir -p m4	# aclocal warns about a macro directory that isn't there yet
exec autoreconf --install --force "$@"

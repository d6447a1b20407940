dnl SPDX-License-Identifier: BSD-2-Clause
dnl Which rivals the benchmark can have. It needs none of them, and nothing else does.
dnl For another machine (--host) the compilers and libraries found here would be the wrong ones.

AC_ARG_ENABLE([rivals],
  [AS_HELP_STRING([--disable-rivals], [the benchmark without the rivals that are installed])],
  [], [AS_IF([test -z "$host_alias"], [enable_rivals=yes], [enable_rivals=no])])
AC_ARG_VAR([CXX], [C++ compiler, for rivals in the benchmark])
AC_ARG_VAR([CXXFLAGS], [its flags; CFLAGS if unset])
AC_ARG_VAR([CARGO], [builds the rivals in Rust])
AC_ARG_VAR([CRATES], [where their crates are, unpacked])
: "${CXXFLAGS=$CFLAGS}" "${CRATES=/usr/share/cargo/registry}"
cq_rivals=

dnl CQ_RIVAL(CONDITIONAL, NAME, TEST)
AC_DEFUN([CQ_RIVAL], [
cq_has_rival=no
AS_IF([test "$enable_rivals" != no], [$3])
AS_IF([test $cq_has_rival = yes], [cq_rivals="$cq_rivals $2"])
AM_CONDITIONAL([$1], [test $cq_has_rival = yes])
])

dnl CQ_TRY_CXX(HEADER, FLAGS): configure's checks of C++, without those of the compiler.
AC_DEFUN([CQ_TRY_CXX], [
AC_MSG_CHECKING([for $1 in C++])
AS_ECHO(["@%:@include <$1>"]) >conftest.cc
AS_IF([$CXX -std=gnu++17 $2 -fsyntax-only conftest.cc >&AS_MESSAGE_LOG_FD 2>&1], [cq_has_rival=yes])
rm -f conftest.cc
AC_MSG_RESULT([$cq_has_rival])
])

AC_CHECK_TOOLS([CXX], [g++ clang++ c++], [false])
AC_CHECK_PROG([CARGO], [cargo], [cargo], [false])

CQ_RIVAL([URCU], [urcu],
  [PKG_CHECK_MODULES([URCU], [liburcu-memb liburcu-cds], [cq_has_rival=yes], [:])])
CQ_RIVAL([GLIB], [glib],
  [PKG_CHECK_MODULES([GLIB], [glib-2.0 >= 2.36], [cq_has_rival=yes], [:])])
CQ_RIVAL([MOODYCAMEL], [moodycamel],
  [CQ_TRY_CXX([concurrentqueue/blockingconcurrentqueue.h], [])])
CQ_RIVAL([TBB], [tbb],
  [PKG_CHECK_MODULES([TBB], [tbb >= 2021.6],
    [CQ_TRY_CXX([oneapi/tbb/task_arena.h], [$TBB_CFLAGS])], [:])])
dnl cargo 1.63 is the first with --config.
CQ_RIVAL([RUST], [rust],
  [AC_MSG_CHECKING([for cargo 1.63, crossbeam-channel and rayon])
   AS_CASE([$($CARGO --version 2>/dev/null)],
     [cargo\ 1.@<:@0-9@:>@.*|cargo\ 1.@<:@1-5@:>@@<:@0-9@:>@.*|cargo\ 1.6@<:@0-2@:>@.*], [],
     [cargo\ *], [AS_IF([ls -d "$CRATES"/crossbeam-channel-0.5* "$CRATES"/rayon-1* >/dev/null 2>&1],
       [cq_has_rival=yes])])
   AC_MSG_RESULT([$cq_has_rival])])
: "${cq_rivals:= none}"

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/cc.h - what libcq asks of the compiler. GCC and Clang have all of it.
 */
#ifndef CQ_CC_H
#define CQ_CC_H

#include <stddef.h>

#ifdef __cplusplus
#define CQ_BEGIN_DECLS extern "C" {
#define CQ_END_DECLS }
#else
#define CQ_BEGIN_DECLS
#define CQ_END_DECLS
#endif

/**
 * Exported by the shared library; everything else is hidden. So is all of the static
 * one (built without PIC defined): a shared object that it is linked into exports none of it.
 */
#if defined(CQ_BUILDING) && !defined(PIC)
#define CQ_API __attribute__((visibility("hidden")))
#else
#define CQ_API __attribute__((visibility("default")))
#endif

/** Ignoring the result loses an error that the caller has to handle. */
#define CQ_MUST_CHECK __attribute__((warn_unused_result))

/** A function that a program need not use. */
#define CQ_UNUSED __attribute__((unused))

#define CQ_ALIGNED(bytes) __attribute__((aligned(bytes)))

/** The object may be read through ck's own type for it. */
#define CQ_MAY_ALIAS __attribute__((may_alias))

/* Conversions in the words that each language has for them, so that neither warns. */
#ifdef __cplusplus
#define CQ_STATIC_CAST(T, x) static_cast<T>(x)
#else
#define CQ_STATIC_CAST(T, x) ((T)(x))
#endif

#endif /* CQ_CC_H */

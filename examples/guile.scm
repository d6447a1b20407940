;; SPDX-License-Identifier: BSD-2-Clause
;; Usage: guile examples/guile.scm with|without EXTENSION FILE...
;; Guile compiles FILEs, modules of its own. "with": every pair and syntax object that its reader makes of them has
;; a cleanup of libcq-gc (examples/guile.c), and so do objects of other kinds, some of which are kept, and what three
;; threads make. Prints a checksum of the code, the same without, and fails where a cleanup came early or twice.
(use-modules (ice-9 match) (ice-9 threads) (rnrs bytevectors) (srfi srfi-9) (srfi srfi-43)
             (system base compile) (system base language) (system syntax internal))

(define with? (string=? (list-ref (command-line) 1) "with"))
(if with? (load-extension (list-ref (command-line) 2) "init_cq"))

(define attached 0)

;; Nobody but the entry keeps a mark alive, unless the caller does.
(define (attach! object)
  (let ((mark (make-bytevector 1 0)))
    (add-cleanup! object mark)
    (set! attached (+ attached 1))
    mark))

(define (attach-all! x)
  (cond ((pair? x) (attach! x) (attach-all! (car x)) (attach-all! (cdr x)))
        ((syntax? x) (attach! x) (attach-all! (syntax-expression x)))))

(define scheme (lookup-language 'scheme))
(define watched
  (make-language 'watched "Scheme, watched"
                 (lambda (port env)
                   (let ((x ((language-reader scheme) port env)))
                     (if with? (attach-all! x))
                     x))
                 (language-printer scheme)
                 #:compilers (language-compilers scheme)
                 #:evaluator (language-evaluator scheme)
                 #:make-default-environment (language-make-default-environment scheme)))

(define (checksum bytes sum)
  (let loop ((i 0) (sum sum))
    (if (= i (bytevector-length bytes))
        sum
        (loop (+ i 1) (modulo (+ (* sum 31) (bytevector-u8-ref bytes i)) 4294967291)))))

(define sum
  (let loop ((files (list-tail (command-line) 3)) (sum 0))
    (if (null? files)
        sum
        (loop (cdr files)
              (checksum (call-with-input-file (car files)
                          (lambda (port)
                            (read-and-compile port #:from watched #:to 'bytecode
                                              #:env (make-fresh-user-module))))
                        sum)))))
(format #t "~a files, checksum ~a~%" (length (list-tail (command-line) 3)) sum)

(define-record-type point (make-point x y) point? (x point-x) (y point-y set-point-y!))

(define (make-one i)
  (case (modulo i 8)
    ((0) (cons i i))
    ((1) (make-vector 3 i))
    ((2) (string-copy "a string"))
    ((3) (lambda () i))
    ((4) (make-point i i))
    ((5) (make-hash-table))
    ((6) (delay i))
    ((7) (make-bytevector 40 1))))

(define (early? kept marks)
  (vector-any (lambda (mark) (and mark (not (= 0 (bytevector-u8-ref mark 0))))) marks))

(define (fail . what)
  (apply format (current-error-port) what)
  (exit 1))

;; Every tenth is kept. A guardian, and so a finalizer, has every third: a cleanup comes when it has given that back.
(define (make-many n)
  (let ((kept (make-vector (quotient n 10) #f)) (marks (make-vector (quotient n 10) #f)) (guardian (make-guardian)))
    (do ((i 0 (+ i 1))) ((= i n))
      (let* ((object (make-one i)) (mark (attach! object)))
        (when (= 0 (modulo i 3))
          (guardian (if (vector? object) (begin (vector-set! object 0 mark) object) object)))
        (when (= 0 (modulo i 10))
          (vector-set! kept (quotient i 10) object)
          (vector-set! marks (quotient i 10) mark))))
    (gc)
    (cleanups-relieve)
    (do ((object (guardian) (guardian))) ((not object))
      (if (and (vector? object) (not (= 0 (bytevector-u8-ref (vector-ref object 0) 0))))
          (fail "a cleanup ran whose object a guardian has~%")))
    (cleanups-relieve)
    (if (early? kept marks)
        (fail "a cleanup ran whose object lives~%"))
    (vector-length kept)))

(when with?
  (let ((live (apply + (make-many 100000)
                     (map join-thread (map (lambda (i) (call-with-new-thread (lambda () (make-many 20000))))
                                           (iota 3))))))
    (cleanups-relieve)
    (match (cleanups-counts)
      ((added run missed wrong)
       (format #t "~a cleanups attached, ~a have run, ~a were of objects kept at their time~%" added run live)
       (if (not (= 0 wrong missed))
           (fail "~a ran twice or found another argument, ~a collections were missed~%" wrong missed))
       (if (< run (* 9/10 added))
           (fail "too few have run~%"))))
    (let ((left (cleanups-close)))
      (match (cleanups-counts)
        ((added run missed wrong)
         (format #t "~a ran at the end~%" left)
         (if (not (and (= added run) (= 0 wrong)))
             (fail "added ~a, run ~a, wrong ~a~%" added run wrong)))))))

# Of a library's undefined symbols, as nm prints them, makes a C file that defines those of OpenMP's
# runtimes (GCC's, Clang's): each says that it was entered.
BEGIN {
    print "#include <stddef.h>"
    print "void openmp_entered(const char *name);"
}
$1 ~ /^(GOMP_|omp_|__kmp|kmp)/ && !seen[$1]++ {
    printf "void %s(void);\nvoid %s(void) {\n    openmp_entered(\"%s\");\n}\n", $1, $1, $1
    count++
}
END {
    print "extern const size_t openmp_entries;"
    print "const size_t openmp_entries = " count + 0 ";"
}

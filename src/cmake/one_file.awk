# Writes the library as one file, for programs that have no use for a build of its own:
#   awk -v root=FOLDER -v version=VERSION -v out=FOLDER -f one_file.awk SOURCE...
# Sources are paths in root. out has batchnorm.c and batchnorm.h then, which is the public header.
#
# Headers come where they are first included. Those without a guard are templates, which each set of
# kernels includes anew: what is defined there gets the set's name behind its own.

BEGIN {
    output = out "/batchnorm.c"
    line("/*")
    line(" * batchnorm " version " as one file, made of the sources of src/ in the order that they are needed in.")
    line(" * Compile it with -fopenmp, or the like, for threads; with -DBN_PORTABLE for no instruction set by name.")
    line(" *")
    line(" * In a shared library nothing is exported but what batchnorm.h declares; with -DBN_API= that neither.")
    line(" *")
    text = read(root "/LICENSE")
    n = split(text, lines, "\n")
    for (i = 1; i < n; i++)
        line(" *" (lines[i] == "" ? "" : " " lines[i]))
    line(" */")
    line("#ifdef __ELF__ /* what is declared in other headers is in other libraries */")
    line("#define BNI_HIDE _Pragma(\"GCC visibility push(hidden)\")")
    line("#define BNI_SHOW _Pragma(\"GCC visibility push(default)\")")
    line("#define BNI_AS_BEFORE _Pragma(\"GCC visibility pop\")")
    line("#else")
    line("#define BNI_HIDE")
    line("#define BNI_SHOW")
    line("#define BNI_AS_BEFORE")
    line("#endif")
    line("BNI_HIDE")
    for (i = 1; i < ARGC; i++) {
        section = ARGV[i] ~ /\/kernels_/ ? suffix(ARGV[i]) : ""
        add(ARGV[i])
        if (section != "")
            flush_section()
    }
    line("BNI_AS_BEFORE")
    printf "%s", read(root "/include/batchnorm/bn_layer.h") > (out "/batchnorm.h")
    exit failed
}

function line(text) {
    if (section == "")
        print text > output
    else
        held[++holds] = text
}

function suffix(file) {
    sub(/.*kernels_/, "_", file)
    sub(/\.c$/, "", file)
    return file
}

function read(file,    text, row, state) {
    while ((state = (getline row < file)) > 0)
        text = text row "\n"
    close(file)
    if (state < 0) {
        print "one_file.awk: cannot read " file > "/dev/stderr"
        exit failed = 1
    }
    return text
}

# Where a header is, by the name that `from` includes it by.
function found(name, from,    folder) {
    folder = from
    sub(/[^\/]*$/, "", folder)
    if ((getline row < (root "/" folder name)) >= 0) {
        close(root "/" folder name)
        return folder name
    }
    return "src/" name
}

# A file's lines, with what it includes in place.
function add(file,    lines, n, i, guarded, depth, name, outer) {
    outer = section
    n = split(read(root "/" file), lines, "\n") - 1
    for (i = 1; i <= n && lines[i] !~ /^#if/; i++)
        continue
    guarded = lines[i] ~ /^#ifndef BNI_[A-Z_0-9]*_H$/ && lines[i + 1] == "#define " substr(lines[i], 9)
    if (guarded) {
        if (file in added)
            return
        added[file]
        lines[i] = lines[i + 1] = lines[n] = ""
        section = "" # before what is held
    }
    line("")
    line("/* ==== " file " ==== */")
    for (i = 1; i <= n; i++) {
        if (lines[i] ~ /^#if/)
            depth++
        else if (lines[i] ~ /^#endif/)
            depth--
        name = lines[i]
        sub(/^#include ["<]/, "", name)
        sub(/[">].*/, "", name)
        if (lines[i] ~ /^#include .batchnorm\/bn_layer\.h/) {
            if (!header++)
                line("#include \"batchnorm.h\"")
        } else if (lines[i] ~ /^#include "/)
            add(found(name, file))
        else if (lines[i] ~ /^#include </) {
            if (!(name in included)) {
                line("BNI_SHOW")
                line(lines[i])
                line("BNI_AS_BEFORE")
            }
            if (!depth)
                included[name]
        } else if (lines[i] != "" || lines[i - 1] != "") # what was taken out leaves one line
            line(lines[i])
    }
    section = outer
}

# The name that a line at the margin defines, or "".
function defined(text) {
    gsub(/__attribute__\(\([^()]*(\([^()]*\))?\)\)/, "", text)
    if (text ~ /^} [a-z_0-9]+;/ || text ~ /^typedef [^({]*;/)
        sub(/ *;.*/, "", text)
    else if (text ~ /^(static|BNI_INLINE) .* = /)
        sub(/(\[[^\]]*\])* = .*/, "", text)
    else if (text ~ /^(static|BNI_INLINE) [^(]*\(/)
        sub(/\(.*/, "", text)
    else
        return ""
    sub(/.*[ *]/, "", text)
    return text
}

# What was held back, with its own names: but not where these name a field.
function flush_section(    i, name, text, result, before, fields, is_field, is_macro, macros, n) {
    split("", own)
    for (i = 1; i <= holds; i++) {
        if ((name = defined(held[i])) != "")
            own[name]
        if (held[i] ~ /^#define /) {
            split(held[i], part, /[ (]+/)
            if (!(part[2] in is_macro))
                macros[++n] = part[2]
            is_macro[part[2]]
        }
    }
    for (i = 1; i <= holds; i++) {
        text = held[i]
        if (text !~ /^#include/)
            gsub(/##name/, "&##" section, text)
        if (text ~ /^typedef struct/)
            fields = 1
        else if (text ~ /^}/)
            fields = 0
        result = ""
        while (match(text, /[A-Za-z_][A-Za-z_0-9]*/)) {
            name = substr(text, RSTART, RLENGTH)
            before = result substr(text, 1, RSTART - 1)
            text = substr(text, RSTART + RLENGTH)
            is_field = before ~ /(\.|->)$/ || (fields && text ~ /^[;,[]/)
            result = before name (name in own && !is_field ? section : "")
        }
        print result text > output
    }
    for (i = 1; i <= n; i++)
        print "#undef " macros[i] > output
    holds = 0
    section = ""
}

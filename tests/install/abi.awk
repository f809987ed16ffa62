# Of the declarations of a header without comments, makes calls of printf that print its interface as
# abi.txt has it. What it does not understand is an error, so that nothing is left out unseen.
BEGIN { RS = ";" }

function fail(what) {
    print "abi.awk does not understand: " what >"/dev/stderr"
    failed = 1
    exit 1
}

function line(text) { printf "    puts(\"%s\");\n", text }

# Not the headers' guards, nor the version, which is in abi.txt's first line, nor how names are exported.
function directive(text) {
    if (!sub(/^ *# *define +/, "", text) || text ~ /^(BATCHNORM_[A-Z_]+_H$|BN_VERSION_|BN_API( |$))/)
        return
    if (text ~ /["\\]/)
        fail(text)
    line("macro " text)
}

function enumeration(text, values, n, i) {
    split(text, values, " ")
    line("enum " values[3])
    sub(/^[^{]*[{] */, "", text)
    sub(/ *,? *[}].*/, "", text)
    n = split(text, values, / *, */)
    for (i = 1; i <= n; i++) {
        sub(/ *=.*/, "", values[i])
        printf "    printf(\"%%4d  %s\\n\", (int)%s);\n", values[i], values[i]
    }
}

function field(text, name) {
    name = text
    sub(/(\)\(.*|\[[^]]*\])$/, "", name)
    sub(/^.* \(?\**/, "", name) # of float *NAME, float NAME[2], int (*NAME)(void)
    if (name !~ /^[a-z_0-9]+$/ || text !~ / /)
        fail(text)
    fields[++count] = sprintf("    printf(\"%%4zu %%3zu  %s\\n\", offsetof(%s, %s), " \
        "sizeof ((%s *)0)->%s);\n", text, type, name, type, name)
}

# float *a, *b
function declaration(text, declarators, first, n, i) {
    n = text ~ /\(/ ? 1 : split(text, declarators, / *, */)
    first = n == 1 ? text : declarators[1]
    field(first)
    sub(/\**[^ *]+$/, "", first)
    for (i = 2; i <= n; i++)
        field(first declarators[i])
}

function structure_ends(i) {
    printf "    printf(\"struct %s, %%zu bytes, aligned to %%zu, public fields: %d\\n\", " \
        "sizeof(%s), _Alignof(%s));\n", type, count, type, type
    for (i = 1; i <= count; i++)
        printf "%s", fields[i]
    type = ""
    count = 0
}

{
    text = ""
    n = split($0, lines, "\n")
    for (i = 1; i <= n; i++)
        if (lines[i] ~ /^ *#/)
            directive(lines[i])
        else
            text = text " " lines[i]
    gsub(/[ \t]+/, " ", text)
    gsub(/^ | $/, "", text)

    if (private) { # as far as its end
        private = text !~ /^[}]/
        if (!private && text != "} internal")
            fail(text)
        next
    }
    if (match(text, /^typedef struct [a-z_]+ [{] /)) {
        split(text, words, " ")
        type = words[3]
        text = substr(text, RLENGTH + 1)
    }
    if (text == "} " type)
        structure_ends()
    else if (type != "" && text ~ /^struct [{]/)
        private = 1
    else if (type != "" && text !~ /[{}]/)
        declaration(text)
    else if (text ~ /^typedef enum [a-z_]+ [{][^{}]*[}] [a-z_]+$/)
        enumeration(text)
    else if (text ~ /^BN_API [^{}]*\)$/)
        line("function " substr(text, 8))
    else if (text != "")
        fail(text)
}

END { if (!failed && (type != "" || private)) fail("the end of " type) }

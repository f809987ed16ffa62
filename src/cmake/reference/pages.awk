# Man pages out of Doxygen's. Its are of a header, a topic or a struct; each function and enumeration gets
# one of its own, and what remains of a header or topic is an overview.
#
#   awk -v version=VERSION -v folder=FOLDER -f pages.awk PAGE...

function plain(text) {
    gsub(/\\f.|\\&/, "", text)
    gsub(/\\-/, "-", text)
    return text
}

# What a text begins with, up to where it goes into detail.
function beginning(text) {
    text = plain(text)
    sub(/( \(|[:;]|\. |\.? *$).*/, "", text)
    return text
}

# As C has it, and with spaces that are no places to break a line but behind commas.
function declaration(text) {
    text = plain(text)
    gsub(/ *\* */, " *", text)
    sub(/ *\) *\(/, ")(", text) # a pointer to a function
    sub(/ *\( */, text ~ /\)\(/ ? " (" : "(", text)
    gsub(/ +/, "\\ ", text)
    gsub(/,\\ /, ", ", text)
    return text
}

# Other pages that are named become the last section, when a page ends.
function refer(name) {
    if (name != page && !((page, name) in seen))
        also[page] = also[page] (also[page] == "" ? "" : ", ") name "(3)"
    seen[page, name] = 1
}

function put(line,    rest) {
    if (line == ".nf" || line == ".fi") {
        block = line == ".nf"
        line = block ? ".RS 4\n.nf" : ".fi\n.RE"
    } else if (!block)
        sub(/^ +/, "", line)
    sub(/^'/, "\\\\\\&'", line) # no request to troff
    print line >(folder "/" page ".3")
    rest = line
    while (match(rest, /\\fBbn_[a-z0-9_]+(\\&\.h)?/)) {
        refer(plain(substr(rest, RSTART, RLENGTH)))
        rest = substr(rest, RSTART + RLENGTH)
    }
}

function begin_page(name, is) {
    page = name
    put(".TH \"" name "\" 3 \"\" \"batchnorm " version "\" \"batchnorm\"")
    put(".ad l\n.nh\n.SH NAME\n" name " \\- " is)
    refer(header)
    refer(topic)
}

function include() { put(".SH SYNOPSIS\n.B #include <batchnorm/" header ">\n.PP") }

function end_page() {
    if (page != "" && also[page] != "")
        put(".SH \"SEE ALSO\"\n" also[page])
    page = ""
}

# Writes the page of the function or enumeration that text[1..lines] is about.
function end_item(    name, i, returns) {
    if (item == "")
        return
    name = plain(item)
    if (sub(/^enum /, "", name)) {
        item = "typedef enum " name " " name
    } else {
        sub(/ \(.*/, "", name)
        sub(/.*[ *]/, "", name)
    }
    begin_page(name, beginning(text[1]))
    include()
    put(".HP 4\n\\fB" declaration(item) ";\\fP\n.SH DESCRIPTION")
    for (i = 1; i <= lines; i++) {
        if (text[i] ~ /^Returns / && text[i + 2] ~ /Return values/) {
            put(".SH \"RETURN VALUE\"\n" text[i])
            i += 3 # its heading, indented
            returns = 1
        } else if (returns && text[i] ~ /^\.RE/) {
            returns = 0
        } else if (returns && match(text[i], /^\\fI[A-Z_]+\\fP /)) {
            put(".TP\n.B " plain(substr(text[i], 1, RLENGTH)) "\n" substr(text[i], RLENGTH + 1))
        } else if (text[i] ~ /^\\fB(Enumerator|Examples)\\fP$/) {
            put(text[i] ~ /Enum/ ? ".SH VALUES" : ".SH EXAMPLES")
            i++ # indented
            returns = text[i] ~ /^\.RS/
        } else if (!(returns && text[i] ~ /^\.br/)) {
            put(text[i])
        }
    }
    end_page()
    item = ""
    page = topic
}

{
    gsub(/\\fC/, "\\fB") # a font that not every troff has
    if (/^\.(TH|SH|SS)/)
        examples = 0
}

/^\.TH / {
    end_item()
    end_page()
    topic = $2
    gsub(/"|.*\//, "", topic)
    header = topic ~ /\.h$/ ? topic : "bn_layer.h"
    section = heading = ""
    next
}

/^\.SH / {
    end_item()
    section = $0
    gsub(/^\.SH |"/, "", section)
    own_pages = section ~ /^(Function|Enumeration Type) Documentation$/
    heading = section == "Detailed Description" ? "DESCRIPTION" : toupper(section)
    sub(/ DOCUMENTATION$/, "S", heading)
    fields = brief = 0
    if (section == "SYNOPSIS") {
        include()
        heading = ""
    }
    next
}

section == "" || section == "Author" { next }

section == "NAME" {
    if (page == "" && match($0, / \\- /))
        begin_page(topic, beginning(substr($0, RSTART + 4)))
    next
}

own_pages && /^\.SS / {
    end_item()
    item = $0
    gsub(/^\.SS "|"$/, "", item)
    lines = 0
    next
}

own_pages {
    if (item != "" && (lines > 0 || !/^(\.PP *)?$/))
        text[++lines] = $0
    next
}

# Declarations are listed without the beginnings of their texts, which are elsewhere. Fields are a struct.
section == "SYNOPSIS" && /^\.SS "Data Fields"/ {
    fields = 1
    put(".nf\n.B typedef struct " topic " {")
    next
}
section == "SYNOPSIS" && /#include/ { next }
section == "SYNOPSIS" && /^\.br/ { brief = after_declaration; next }
section == "SYNOPSIS" && brief { brief = 0; next }
section == "SYNOPSIS" { after_declaration = /^\.RI/ }
fields {
    if (gsub(/^\.RI "|"$/, ""))
        put(".B \\ \\ \\ \\ " declaration($0) ";")
    else if (/^\.in -/)
        put(".B } " topic ";\n.fi")
    next
}

# Examples are those of functions.
/^\\fBExamples\\fP/ { examples = 1 }
examples { examples = !/^(\.RE)?$/; next }

# A section that says nothing has no heading.
heading != "" {
    if (/^(\.PP *)?$/)
        next
    put(".SH \"" heading "\"")
    heading = ""
}

section == "Field Documentation" && /^\.SS / {
    gsub(/^\.SS "|"$|bn_[a-z]+::/, "")
    $0 = ".SS \"" declaration($0) "\""
}

{ put($0) }

END {
    end_item()
    end_page()
}

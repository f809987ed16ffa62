# cmake -DTARBALL=FILE -P dist.cmake: packs the source, in a folder of the tarball's name: what git does
# not ignore or, without git, all but .git and build folders. The same source gives the same bits. It takes GNU's
# tar, find and sort.
include(${CMAKE_CURRENT_LIST_DIR}/release_date.cmake)
get_filename_component(folder ${TARBALL} NAME)
string(REPLACE ".tar.gz" "" folder ${folder})
set(list find . -name .git -prune -o -path "./build*" -prune -o -type f -printf "%P\\0")
if(has_git)
    set(list git ls-files -z --cached --others --exclude-standard)
endif()
set(ENV{LC_ALL} C)
execute_process(
    COMMAND ${list}
    COMMAND sort -z
    COMMAND tar --create --null --no-recursion --verbatim-files-from --files-from=-
        --transform=s,^,${folder}/, --mtime=@$ENV{SOURCE_DATE_EPOCH} --format=gnu --owner=0 --group=0
        --numeric-owner --mode=u=rwX,go=rX
    COMMAND gzip -9n
    WORKING_DIRECTORY ${source} OUTPUT_FILE ${TARBALL} COMMAND_ERROR_IS_FATAL ANY)
